"""Numbers that other systems published or computed, by the mechanism they belong to."""

import json
import math
import os
from pathlib import Path

import dp_accounting as dpa
import pytest

import hushgrad as hg
from hushgrad import accounting

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def vectors() -> list[dict]:
    """The cases in `HUSHGRAD_TEST_VECTORS`, else in `../shared/vectors`; skips without."""
    chosen = os.environ.get("HUSHGRAD_TEST_VECTORS")
    folder = Path(chosen) if chosen else _ROOT.parent / "shared" / "vectors"
    file = folder / "accounting.json"
    if not file.is_file():
        pytest.skip(f"no vectors: {file} is no file; name its folder in HUSHGRAD_TEST_VECTORS")
    return json.loads(file.read_text())


def ours(case: dict) -> float | None:
    """What hushgrad says, or None for a case that it does not claim to answer."""
    noise, delta = case["noise_multiplier"], case["delta"]
    if case["what"] == "dp_sgd":
        settings = {k: case[k] for k in ("examples", "batch_size", "epochs")}
        m = hg.dp_sgd(**settings, noise_multiplier=noise, delta=delta)
        return m.epsilon(accountant=case["accountant"])
    if case["what"] == "fixed_size_without_replacement":
        # There the noise multiplier is over the largest change: two clips.
        gaussian = dpa.GaussianDpEvent(2 * noise)
        sampled = dpa.SampledWithoutReplacementDpEvent(
            case["examples"], case["batch_size"], gaussian
        )
        event = dpa.SelfComposedDpEvent(sampled, case["steps"])
        return accounting.epsilon(event, delta, case["accountant"], relation="replace-one")
    rate = case["sampling_rate"]
    if rate is None or case.get("used_microbatching"):
        return None
    steps = case["steps"] if "steps" in case else math.ceil(case["epochs"] / rate)
    event = accounting.poisson_gaussian(rate, noise, steps)
    return accounting.epsilon(event, delta, case["accountant"])


@pytest.mark.parametrize(
    ("kind", "accountant"),
    [
        ("poisson_gaussian", "pld"),
        ("poisson_gaussian", "rdp"),
        ("dp_sgd", "rdp"),
        ("example_privacy", "pld"),
        ("example_privacy", "rdp"),
        ("fixed_size_without_replacement", "rdp"),
    ],
)
def test_every_case_of_a_kind(vectors, kind, accountant):
    cases = [c for c in vectors if c["what"] == kind and c["accountant"] == accountant]
    answered = [(case, got) for case in cases if (got := ours(case)) is not None]
    assert answered
    off = [
        (case, got)
        for case, got in answered
        if not math.isclose(got, case["want"], rel_tol=case["rel_tol"])
    ]
    assert not off


@pytest.mark.parametrize(("accountant", "want"), [("pld", 2.3818), ("rdp", 2.5967)])
def test_the_classic_of_abadi_et_al(accountant, want):
    m = hg.dp_sgd(
        examples=60_000, batch_size=256, epochs=60, noise_multiplier=1.1, delta=1e-5, clip=1.5
    )
    assert m.steps == 14_063
    assert m.epsilon(accountant=accountant) == pytest.approx(want, abs=1e-4)


def test_the_moments_accountant_says_what_the_tutorials_reported(vectors):
    cases = [c for c in vectors if c.get("accountant") == "rdp-classic"]
    assert cases
    for case in cases:
        settings = {k: case[k] for k in ("examples", "batch_size", "epochs", "noise_multiplier")}
        m = hg.dp_sgd(**settings, delta=case["delta"])
        (row,) = [r for r in accounting.bounds(m, m.delta) if r.name == "moments accountant"]
        assert row.epsilon == pytest.approx(case["want"], rel=case["rel_tol"])


def test_statements_of_shuffled_batches(vectors):
    cases = [c for c in vectors if c["what"] == "statement"]
    assert cases
    for case in cases:
        # With microbatches of several examples the noise counts half: one moves two clips.
        noise = case["noise_multiplier"] / (2 if case["used_microbatching"] else 1)
        settings = {k: case[k] for k in ("examples", "batch_size", "epochs", "delta")}
        m = hg.dp_sgd(
            **settings, noise_multiplier=case["noise_multiplier"], sampling=hg.sampling.Shuffle
        )
        facts = accounting.statement_facts(m, microbatching=case["used_microbatching"])
        said = {r["status"]: r["epsilon"] for r in facts["readings"] if r["accountant"] == "rdp"}
        assert f"{said['proved']:.3f}" == case["want"]["once_per_epoch"]
        assert f"{said['assumed']:.3f}" == case["want"]["poisson"]
        most = case["max_examples_per_user"]
        if most:
            event = accounting.poisson_gaussian(1.0, noise / most, math.ceil(case["epochs"]))
            user = accounting.epsilon(event, case["delta"], "rdp")
            assert f"{user:.3f}" == case["want"]["user_once_per_epoch"]
            whole = accounting.statement_facts(
                m, max_examples_per_user=most, microbatching=case["used_microbatching"]
            )
            assert whole["user"]["readings"][0]["epsilon"] <= user


def test_the_central_limit(vectors):
    """Bu et al.'s numbers as TensorFlow Privacy has them, at 60 epochs and noise 1.1."""
    m = hg.dp_sgd(examples=60_000, batch_size=256, epochs=60, noise_multiplier=1.1, delta=1e-5)
    (row,) = [r for r in accounting.bounds(m, 1e-5) if r.kind == "approximation"]
    assert row.epsilon == pytest.approx(2.324315, rel=1e-4)
