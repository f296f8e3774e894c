"""A Keras model that several processes fit: one ledger, one training, whatever one meets."""

from pathlib import Path

import numpy as np
import pytest
from launching import launched

SCRIPT = Path(__file__).with_name("processes.py")
QUICK = ["trained model", "charged", "ended fail", "refused"]
MORE = ["trained data", "parts", "unreadable", "ended stop", "ended interrupt", "killed"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return launched(SCRIPT, 2, tmp_path_factory.mktemp("two"), QUICK)


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    return launched(SCRIPT, 2, tmp_path_factory.mktemp("more"), MORE)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return launched(SCRIPT, 1, tmp_path_factory.mktemp("one"), ["trained data", "parts"])[0]


def same(run, other):
    assert run["epsilon"] == other["epsilon"]
    np.testing.assert_allclose(run["values"], other["values"], rtol=1e-5, atol=1e-5)


def check_same(one, run, share):
    same(run, one["trained data"])
    assert run["share"] == share
    for name, values in one["trained data"]["history"].items():
        assert run["history"][name] == pytest.approx(values, abs=1e-5)


def test_two_processes_train_what_one_does(one, two):
    for told in two:
        check_same(one, told["trained model"], 0.5)


@pytest.mark.slow
def test_two_processes_with_copies_train_what_one_does(one, more):
    for told in more:
        check_same(one, told["trained data"], 1.0)


def test_the_ledger_shows_a_step_before_any_process_releases_it(two):
    for told in two:
        assert told["charged"]["found"] == [1] * 10
    assert [told["charged"]["opened"] for told in two] == [[0], []]


def test_the_secret_is_one_for_all(one, two):
    first, second = (told["charged"]["values"] for told in two)
    assert first == second
    # It comes from no seed.
    assert np.abs(np.subtract(first, one["trained data"]["values"])).max() > 1e-2


@pytest.mark.slow
def test_each_process_reads_only_its_part_of_a_batch(one, more):
    first, second = (told["parts"]["read"] for told in more)
    assert sorted(first + second) == one["parts"]["read"]
    assert min(len(first), len(second)) > 100
    same(more[0]["parts"], one["parts"])


@pytest.mark.slow
def test_rows_that_one_process_cannot_read_stop_all_before_the_release(more):
    failed = [told["unreadable"]["failed"] for told in more]
    assert failed[0] == "ProcessError: process 1 failed (OSError: by hand); mend it there"
    assert failed[1] == "OSError: by hand"
    for told in more:
        run = told["unreadable"]
        # The step that was charged and could not be made is in the ledger, and nowhere else.
        assert run["charged"] == run["steps"] + 1
        assert run["after"] == run["steps"] + 10
    assert more[0]["unreadable"]["values"] == more[1]["unreadable"]["values"]


def check_ended(told, there, here):
    for run, wanted in zip(told, (there, here), strict=True):
        assert (run["failed"] or "").startswith(wanted or "")
        assert (run["failed"] is None) == (wanted is None)
        assert (run["steps"], run["after"], run["loaded"]) == (3, 13, 13)
    assert told[0]["values"] == told[1]["values"]


def test_an_error_on_one_process_ends_all_after_the_same_step(two):
    there = "ProcessError: process 1 failed (ZeroDivisionError: by hand)"
    check_ended([told["ended fail"] for told in two], there, "ZeroDivisionError: by hand")


@pytest.mark.slow
def test_stopping_one_process_stops_all_after_the_same_step(more):
    check_ended([told["ended stop"] for told in more], None, None)
    there = "Interrupted: process 1 was interrupted"
    check_ended([told["ended interrupt"] for told in more], there, "KeyboardInterrupt")


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        ("seed", "seed is 1 on process 0 and 2 on process 1"),
        ("noise", "'noise_multiplier': 2.0} there"),
        ("block", "block_size is 18 on process 0 and 22 on process 1"),
        ("budget", "budget is 'p' on process 0 and None on process 1"),
        ("optimizer", "a hash of the program (model, loss, metrics, optimizer) is"),
        ("no distribution", "keras.distribution must have devices of all 2 processes"),
        ("local distribution", "keras.distribution must have devices of all 2 processes"),
        ("sharded data set", "give DataParallel or ModelParallel auto_shard_dataset=False"),
        ("data", "a keyed hash of the data is"),
        ("rows", "mechanism has examples = 203 (202 there)"),
        ("epochs", "epochs is 2 on process 0 and 3 on process 1"),
        ("validation", "validation_data is [[203, 6], [203]] on process 0 and [[]]"),
        ("class weight", "a keyed hash of the data is"),
        ("no rows", "OSError: by hand"),
        ("no data", "y must come with x"),
        ("stream", "batches that are given are for one process"),
        ("batch", "batches that are given are for one process"),
    ],
)
def test_calls_that_differ_are_refused_by_all(two, name, differs):
    for told in two:
        assert differs in told["refused"][name]
        assert told["refused"]["steps"] == 0


@pytest.mark.slow
def test_a_process_that_dies_stops_the_others(more):
    assert "one of them is gone" in more[0]["killed"]["failed"]
    assert more[0]["killed"]["steps"] == 3


@pytest.mark.slow
def test_to_end_one_process_stops_all(tmp_path):
    # In processes of their own: JAX has them stop at that step ever after.
    two = [told["told_to_end"] for told in launched(SCRIPT, 2, tmp_path, ["told_to_end"])]
    assert all("one of the processes was told to end" in told["failed"] for told in two)
    assert two[0]["values"] == two[1]["values"]
    assert two[0]["steps"] == two[1]["steps"] < 10
