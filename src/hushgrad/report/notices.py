"""What a reader of a report must not overlook."""

from __future__ import annotations

from typing import Any

from hushgrad.report.kept import Kept

__all__ = ["notices"]


def notices(kept: Kept, told: dict[str, Any]) -> list[dict[str, Any]]:
    """The most serious first.

    Returns:
      Of each its level ("alarm", "warning" or "note"), a head and a text, and whether it may be
      published.
    """
    found = [*_of_trust(told), *_of_audit(told), *_of_seed(kept), *_of_state(kept)]
    if told["privacy"] is not None and kept.delta >= 1 / told["privacy"]["examples"]:
        text = (
            f"Delta is {kept.delta:g}, and one over the number of examples is "
            f"{1 / told['privacy']['examples']:.3g}: publishing some records whole would keep such "
            "a promise."
        )
        found.append(_notice("warning", "Delta is too large", text))
    if kept.chain.validation == "private":
        text = (
            "Parameters, or when to stop, were chosen by scores without noise on a private set; "
            "nothing is promised to the people in that set."
        )
        found.append(_notice("warning", "A private set chose", text))
    if kept.chain.others:
        text = (
            f"The ledger holds {len(kept.chain.others):,} other trainings. Who was in the data of "
            "several is told the cost of all together by private.privacy_statement()."
        )
        found.append(_notice("warning", "One training of several", text, public=False))
    return found


def _of_trust(told: dict[str, Any]) -> list[dict[str, Any]]:
    if told["trusted"]:
        return []
    text = (
        "The run's ledger does not prove what was spent, so this report promises nothing. Do not "
        "sign it and do not publish the model on its strength."
    )
    return [_notice("alarm", "The ledger cannot be trusted", text)]


def _of_audit(told: dict[str, Any]) -> list[dict[str, Any]]:
    audit = told["audit"]
    if audit is None or audit["found"] is None or not audit["found"]["exceeded"]:
        return []
    text = (
        "The canaries of this run prove that more was given away than its mechanism promises: "
        "there is a fault. Do not publish the model."
    )
    # However it was found: nobody must rely on what does not hold.
    return [_notice("alarm", "The audit refutes the promise", text)]


def _of_seed(kept: Kept) -> list[dict[str, Any]]:
    if kept.seeded is None:
        text = "A ledger by itself does not say whether the run's secrets came from a seed."
        return [_notice("note", "Seed not recorded", text)]
    if not kept.seeded:
        return []
    text = (
        "Not private against whoever knows the seed, who can repeat every batch and every noise. "
        "Seeds are for tests."
    )
    return [_notice("alarm", "Seeded", text)]


def _of_state(kept: Kept) -> list[dict[str, Any]]:
    found = []
    unfinished = kept.chain.finished is None
    if unfinished and not kept.problems:
        text = (
            f"{kept.charged:,} of {kept.plan.steps:,} planned steps were charged so far. The run "
            "goes on or was broken off; its next steps will cost more than is told here."
        )
        found.append(_notice("warning", "Unfinished", text))
    if kept.has_secret:
        until = "until it ends" if unfinished else "and it should not: call hg.train once more"
        text = (
            "The run's directory holds the secret that batches and noise are made from "
            f"{until}. Whoever reads it can take the noise away."
        )
        level = "note" if unfinished else "warning"
        found.append(_notice(level, "The secret is still there", text, public=False))
    return found


def _notice(level: str, head: str, text: str, *, public: bool = True) -> dict[str, Any]:
    return {"level": level, "head": head, "text": text, "public": public}
