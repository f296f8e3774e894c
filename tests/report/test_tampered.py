"""A ledger that somebody changed promises nothing, and nobody overlooks that."""

import json

import pytest
from reported import change, one_row_changed, trained

import hushgrad as hg


def a_row_moved_in_time(place):
    change(place, "update entries set written_at = '2020-01-01' where number = 4")


def a_row_taken_out(place):
    change(place, "delete from entries where number = 5")


def no_json_in_a_row(place):
    change(place, "update entries set content = 'x' where number = 5")


def the_end_cut_off(place):
    """The chain holds, but a checkpoint is of a later step than any that is charged."""
    change(place, "delete from entries where number > 8")


def all_but_the_beginning_cut_off(place):
    change(place, "delete from entries where number > 1")


def another_mechanism_in_the_directory(place):
    content = json.loads((place / "run.json").read_text())
    content["identity"]["mechanism"]["noise"]["noise_multiplier"] = 100.0
    (place / "run.json").write_text(json.dumps(content))


def the_ledger_of_another_run(place):
    other = place.parent / "other"
    trained(other)
    (place / "ledger.sqlite").write_bytes((other / "ledger.sqlite").read_bytes())


def no_ledger(place):
    (place / "ledger.sqlite").unlink()


def an_empty_ledger(place):
    (place / "ledger.sqlite").write_bytes(b"")


def rubbish(place):
    (place / "ledger.sqlite").write_bytes(b"rubbish" * 1000)


def a_result_after_more_steps(place):
    (place / "result.json").write_text('{"steps": 13, "test_accuracy": 0.9}')


CHANGES = [
    one_row_changed,
    a_row_moved_in_time,
    a_row_taken_out,
    no_json_in_a_row,
    the_end_cut_off,
    all_but_the_beginning_cut_off,
    another_mechanism_in_the_directory,
    the_ledger_of_another_run,
    no_ledger,
    an_empty_ledger,
    rubbish,
    a_result_after_more_steps,
]


@pytest.mark.parametrize("damage", CHANGES, ids=lambda damage: damage.__name__)
def test_nothing_is_promised(finished, copied, damage):
    place = copied(finished.directory)
    assert hg.report.facts(place)["trusted"]
    damage(place)
    for public in (False, True):
        told = hg.report.facts(place, public=public)
        assert not told["trusted"]
        assert not told["ledger"]["verified"]
        assert told["problems"]
        assert told["run"]["state"] == "unknown"
        for name in ("statement", "privacy", "curves"):
            assert told[name] is None
        assert told["notices"][0]["level"] == "alarm"
    page = hg.report.html(place)
    assert "Do not sign it" in " ".join(page.split())
    assert "Not to be signed" in page
    assert "<strong>NOT verified.</strong>" in page
    assert "Nothing is promised." in page
    assert "Protected: whether any one" not in page
    assert f"{finished.epsilon:.4f}" not in page
    (row,) = hg.report.comparison([place])["runs"]
    assert row["epsilon"] is None
    assert "LEDGER NOT TRUSTED" in hg.report.comparison_html([place])


def test_the_place_of_the_fault_is_named(finished, copied):
    place = copied(finished.directory)
    one_row_changed(place)
    assert "row 6 of" in hg.report.html(place)
    # Whoever reads the public file is not told more than that it does not verify.
    assert "row 6 of" not in hg.report.html(place, public=True)
