"""Several processes: one run, one ledger, and no release that it does not show."""

from pathlib import Path

import numpy as np
import pytest
from launching import launched

SCRIPT = Path(__file__).with_name("processes.py")
TWO = ["trained fsdp poisson", "charged", "parts", "stopped", "failing", "interrupted SIGINT"]
TWO += ["exported", "unreadable", "refused", "killed fsdp tree"]
ONE = ["trained data poisson", "parts", "resumed fsdp tree"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def two(folder):
    return launched(SCRIPT, 2, folder, TWO)


@pytest.fixture(scope="module")
def one(two, folder):
    # After the two, whose run it goes on with.
    return launched(SCRIPT, 1, folder, ONE)[0]


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    scenes = ["trained tensor poisson", "trained data poisson", "trained fsdp adaptive"]
    first = launched(SCRIPT, 4, folder, [*scenes, "trained fsdp tree", "killed fsdp tree"])
    again = launched(
        SCRIPT, 2, folder, ["resumed fsdp tree", "trained data adaptive", "trained data tree"]
    )
    return first[0], again[0]


def same(run, other):
    assert run["epsilon"] == other["epsilon"]
    np.testing.assert_allclose(run["values"], other["values"], rtol=1e-5, atol=1e-5)


def test_two_processes_train_what_one_does(one, two):
    for told in two:
        same(told["trained fsdp poisson"], one["trained data poisson"])
        assert told["trained fsdp poisson"]["share"] == [1.0, 0.25, 0.25] * 2


def test_the_ledger_shows_a_step_before_any_process_releases_it(two):
    for told in two:
        assert told["charged"]["found"] == [1] * 9
    assert [told["charged"]["opened"] for told in two] == [[0], []]


def test_the_run_s_secret_is_one_for_all(one, two):
    first, second = (told["charged"]["values"] for told in two)
    assert first == second
    # It comes from no seed.
    assert np.abs(np.subtract(first, one["trained data poisson"]["values"])).max() > 1e-2


def test_each_process_reads_only_its_part_of_a_batch(one, two):
    first, second = (told["parts"]["read"] for told in two)
    assert sorted(first + second) == one["parts"]["read"]
    assert min(len(first), len(second)) > 100
    same(two[0]["parts"], one["parts"])


def test_a_callback_of_one_process_stops_all(two):
    assert [told["stopped"]["steps"] for told in two] == [3, 3]


def test_an_error_on_one_process_stops_all_and_the_call_goes_on(one, two):
    failed = [told["failing"].pop("failed") for told in two]
    assert failed[0] == "ProcessError: process 1 failed (ZeroDivisionError: by hand); mend it there"
    assert failed[1] == "ZeroDivisionError: by hand"
    assert two[0]["failing"]["epsilon"] == one["trained data poisson"]["epsilon"]
    assert two[0]["failing"]["values"] == two[1]["failing"]["values"]


def test_rows_that_one_process_cannot_read_stop_all_before_the_release(one, two):
    failed = [told["unreadable"].pop("failed") for told in two]
    assert failed[0] == "ProcessError: process 1 failed (OSError: by hand); mend it there"
    assert failed[1] == "OSError: by hand"
    for told in two:
        # What one could read was never released: the steps before are those of the whole run.
        assert told["unreadable"]["steps"] == 9
        assert told["unreadable"]["charged"] == told["unreadable"]["released"] + 1
        assert told["unreadable"]["epsilon"] == one["trained data poisson"]["epsilon"]


def test_ctrl_c_at_one_process_saves_and_stops_all(one, two):
    for told in two:
        run = told["interrupted SIGINT"]
        assert run["failed"].startswith("Interrupted: interrupted after step 3 of 9")
        # Nothing is lost: they stopped together, after the step.
        same(run, one["trained data poisson"])


def test_parameters_are_exported_whole(two):
    assert [told["exported"]["same"] for told in two] == [[True] * 3] * 2


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        ("seed", "seed is 1 on process 0 and 2 on process 1"),
        ("mechanism", "mechanism has steps = 9 (10 there)"),
        ("data", "data has 200 rows, but the mechanism accounts for 203 examples"),
        ("data and mechanism", "mechanism has examples = 203 (200 there)"),
        ("content", "process 1 has other data"),
        ("no mesh", "mesh must have devices of all 2 processes"),
        ("one mesh", "mesh must have devices of all 2 processes"),
        ("local mesh", "mesh must have devices of all 2 processes"),
        ("options", "options has average = 0.9 (0.8 there)"),
        ("optimizer", "process 1 has another loss, optimizer"),
        ("budget", "budget is 'add-or-remove-one' on process 0 and None on process 1"),
        ("directory", "must be on a file system that all processes share"),
    ],
)
def test_calls_that_differ_are_refused_by_all(two, name, differs):
    for told in two:
        assert differs in told["refused"][name]
        assert told["refused"]["begun"] == []


def test_a_process_that_dies_stops_the_others_and_one_alone_goes_on(one, two):
    assert "one of them is gone" in two[0]["killed fsdp tree"]["failed"]
    run = one["resumed fsdp tree"]
    assert run["steps"] == 9
    # No step is charged twice, to the run or to its budget.
    assert run["epsilon"] == pytest.approx(run["held"])


@pytest.mark.slow
def test_four_processes_train_what_one_does(one, two, four):
    first, again = four
    same(first["trained tensor poisson"], one["trained data poisson"])
    same(first["trained data poisson"], one["trained data poisson"])
    same(first["trained fsdp adaptive"], again["trained data adaptive"])
    same(first["trained fsdp tree"], again["trained data tree"])


@pytest.mark.slow
def test_two_processes_go_on_where_one_of_four_died(four):
    first, again = four
    assert "one of them is gone" in first["killed fsdp tree"]["failed"]
    assert again["resumed fsdp tree"]["steps"] == 9
    assert again["resumed fsdp tree"]["epsilon"] == again["trained data tree"]["epsilon"]


@pytest.mark.slow
def test_to_end_one_process_saves_and_stops_all(one, tmp_path):
    # In processes of their own: JAX has them stop at that step ever after.
    two = launched(SCRIPT, 2, tmp_path, ["interrupted SIGTERM"])
    stopped = [told["interrupted SIGTERM"]["failed"] for told in two]
    # All at one step; JAX chooses it.
    assert stopped[0].startswith("Interrupted: interrupted after step")
    assert len({*stopped}) == 1
    for told in two:
        same(told["interrupted SIGTERM"], one["trained data poisson"])
