"""What may be published holds nothing that carries no noise, and no name of machine or person.

A marker is planted in each thing that is not private, where the run keeps it: none may be in the
public file, and as a check of the check, those that a report shows must be in the full one.
"""

import getpass
import json
import re
import socket

import pytest

import hushgrad as hg
from hushgrad.report.public import published

# Numbers as a report writes them: whole, and rounded.
LOSS, SUM_NORM, SCORE, TEST = 0.73190571, 47.131719, 0.61728394, 0.58349217
DRAWN, CLIPPED, NONFINITE = 88117, 77113, 66431
MARKS = {
    "loss": ["0.7319"],
    "sum of gradients": ["47.131", "3.9276"],  # as it is, and divided by the batch size
    "examples drawn": ["88117", "88,117", "154,548", "154548"],  # and those that were not finite
    "clipped": ["77113", "0.4989", "49.9 %"],
    "not finite": ["66431", "66,431"],
    "score on private data": ["0.6172", "61.7 %"],
    "test score on private data": ["0.5834", "58.3 %"],
    "name of a budget": ["MARKbudget"],
    "directory": ["MARKdirectory"],
}
# Not in any report, but in the run's directory.
NEVER = {
    "where it was logged": ["MARKhost"],
    "own fact of a line": ["MARKline"],
    "places of canaries": ["81818181"],
    "parameters": ["MARKresult"],
}


def planted(place, copied):
    """A copy of a run with a marker in all that is not private."""
    place = copied(place, "MARKdirectory")
    content = json.loads((place / "run.json").read_text())
    content["identity"]["budget"] = "MARKbudget"
    (place / "run.json").write_text(json.dumps(content))
    unprotected = {
        "loss": LOSS,
        "sum_norm": SUM_NORM,
        "examples": DRAWN,
        "clipped": CLIPPED,
        "nonfinite": NONFINITE,
        "more": "MARKline",
    }
    lines = [
        {"run": "/MARKhost/run", "step": step, "noise_norm": 3.0, "unprotected": unprotected}
        | {"score": SCORE, "score_set": "private", "user": "MARKline"}
        for step in (4, 8, 12)
    ]
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (place / "validation.json").write_text(json.dumps([[3, SCORE], [6, SCORE]]))
    result = {"test_accuracy": TEST, "test_set": "private", "steps": 12, "note": "MARKresult"}
    (place / "result.json").write_text(json.dumps(result))
    (place / "canaries.json").write_text('{"places": [81818181], "included": [true]}')
    (place / "statement.txt").write_text("MARKresult")
    return place


def found(text, marks):
    return sorted(what for what, forms in marks.items() if any(form in text for form in forms))


def test_no_marker_gets_out(finished, copied):
    place = planted(finished.directory, copied)
    full = json.dumps(hg.report.facts(place)) + hg.report.html(place)
    assert found(full, MARKS) == sorted(MARKS)
    assert found(full, NEVER) == []
    public = json.dumps(hg.report.facts(place, public=True)) + hg.report.html(place, public=True)
    assert found(public, MARKS | NEVER) == []
    assert f"{finished.epsilon:.4f}" in public


def test_the_page_of_a_public_report_holds_its_facts_and_no_others(finished, copied):
    place = planted(finished.directory, copied)
    text = hg.report.html(place, public=True)
    inside = re.search(r'id="hushgrad-report">(.*?)</script>', text, re.DOTALL)
    assert inside is not None
    assert json.loads(inside[1]) == hg.report.facts(place, public=True)
    assert "for publication" in text
    assert "for those who hold the data" not in text


def test_neither_people_nor_machines_are_named(finished, tmp_path):
    text = hg.report.html(finished, public=True)
    for name in (str(finished.directory), str(tmp_path.parent), socket.gethostname()):
        assert name not in text
    for path in ("/tmp", "/home", "/root", "/Users"):
        assert path not in text
    if len(getpass.getuser()) > 4:  # a short one may be in any word
        assert getpass.getuser() not in text
    # No times, which tell how long a step took, and so how many were drawn for it.
    assert not re.search(r"\d\d:\d\d", text)
    told = hg.report.facts(finished)
    rows = [one["digest"] for one in told["ledger"]["groups"]]
    assert [row for row in rows if row[:16] in text] == [told["ledger"]["head"]]


def test_what_nobody_thought_about_is_not_public(finished):
    """Facts are picked by name: what is added to a report later stays inside."""
    told = hg.report.facts(finished)
    told |= {"added": "MARK", "run": {**told["run"], "added": "MARK"}}
    told["ledger"]["added"] = "MARK"
    assert "MARK" not in json.dumps(published(told, None))


def test_canaries(audited):
    """Scores of those that are made up follow from released sums; others' from records."""
    for kind, place in audited.items():
        full, public = hg.report.facts(place), hg.report.facts(place, public=True)
        assert full["audit"]["found"]["kind"] == kind
        assert full["audit"]["roc"]["auc"] == hg.audit.CanariesFound.load(place).roc.auc
        assert public["audit"]["planned"] == {"kind": kind, "canaries": 40}
        text = json.dumps(public) + hg.report.html(place, public=True)
        scores = json.loads((place / "audit.json").read_text())["scores"]
        assert not any(repr(score) in text for score in scores)
        if kind == "gradient":
            assert public["audit"] == full["audit"]
        else:
            assert public["audit"]["found"] is public["audit"]["roc"] is None
            assert "guesses" not in text
            assert "made from real records" in text


def test_a_refuted_promise_is_said_in_any_file(audited, copied):
    place = copied(audited["rows"])
    found = json.loads((place / "audit.json").read_text())
    found["exceeded"] = found["proved"]["refuted"] = True
    (place / "audit.json").write_text(json.dumps(found))
    for public in (False, True):
        text = hg.report.html(place, public=public)
        assert "The audit refutes the promise" in text
        assert "Do not publish the model" in text


@pytest.mark.parametrize("title", [None, "Model of 2026"])
def test_a_title_is_public_if_it_was_given(finished, title):
    text = hg.report.html(finished, public=True, title=title)
    heading = title or f"Run {hg.report.facts(finished)['run']['id'][:8]}"
    assert f"<h1>{heading}</h1>" in text
