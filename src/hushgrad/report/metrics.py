"""What was logged of a run while it lasted: lines of `hg.callbacks.JsonLines`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hushgrad.errors import DataError, InputError
from hushgrad.report.kept import Kept

__all__ = ["METRICS", "logged", "scores"]

# Where a report looks for them, in a run's directory.
METRICS = "metrics.jsonl"


def logged(kept: Kept, file: str | Path | None = None) -> list[dict[str, Any]]:
    """The run's lines, in the order of its steps; those of steps that are not charged left out.

    Args:
      kept: the run.
      file: where they are, if not in the run's directory.

    Raises:
      DataError: if a file that was named cannot be read, or has lines of other runs alone.
    """
    place = kept.path / METRICS if file is None else Path(file).expanduser()
    if file is None and not place.is_file():
        return []
    lines = _lines(place)
    if file is not None:
        lines = _own(kept, place, lines)
    # In its own directory all are the run's, under whatever names it was reached; the last of a
    # step counts, since a step may be repeated after a crash.
    found = {line["step"]: line for line in lines if 0 < line["step"] <= kept.charged}
    return [found[step] for step in sorted(found)]


def scores(kept: Kept, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Scores on data that are not the run's: after which step, and whether they are public.

    What does not say that its data are public is of private ones.
    """
    chosen = "public" if kept.chain.validation == "public" else "private"
    found = {
        step: {"step": step, "score": score, "set": chosen}
        for step, score in kept.validation
        if step <= kept.charged
    }
    for line in lines:
        if line.get("score") is not None:
            of = "public" if line.get("score_set") == "public" else "private"
            found[line["step"]] = {"step": line["step"], "score": line["score"], "set": of}
    return [found[step] for step in sorted(found)]


def _own(kept: Kept, place: Path, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the run, in a file that may have others' too."""
    runs = list(dict.fromkeys(str(line.get("run")) for line in lines))
    own = [name for name in runs if Path(name).resolve() == kept.path.resolve()]
    if not own and len(runs) != 1:
        raise DataError(
            f"metrics={str(place)!r} has no lines of {str(kept.path)!r}, but of "
            f"{', '.join(runs) or 'no run'}; name the file that hg.callbacks.JsonLines wrote"
        )
    return [line for line in lines if not own or line.get("run") in own]


def _lines(file: Path) -> list[dict[str, Any]]:
    try:
        texts = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"metrics={str(file)!r} cannot be read ({error}); name the file that "
            "hg.callbacks.JsonLines wrote"
        ) from error
    found = []
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
            if not isinstance(line["step"], int):
                raise TypeError(f"step is {line['step']!r}")
        except (ValueError, KeyError, TypeError) as error:
            if number == len(texts):
                break  # half written: the run goes on, or was broken off
            raise DataError(
                f"line {number} of {file} cannot be read ({error}); take it away, or the file"
            ) from error
        found.append(line)
    return found
