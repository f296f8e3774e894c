"""A budget holds: whoever asks, however often, whatever dies."""

import json
import multiprocessing
import sqlite3
import threading
import time

import dp_accounting as dpa
import postgresql
import pytest
from jobs import Stop, mechanism

import hushgrad as hg
from hushgrad import accounting
from hushgrad.errors import BudgetError, InputError, LedgerError
from hushgrad.training import budget as module

M = mechanism()
ONE = M.epsilon()
TOTAL = 2 * ONE

needs_server = pytest.mark.skipif(
    not postgresql.BINARIES, reason="PostgreSQL's server is not installed"
)


@pytest.fixture(scope="session")
def server():
    with postgresql.server() as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_server)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'b.sqlite'}"
    return request.getfixturevalue("server").url


@pytest.fixture
def name(request):
    return request.node.name[:200]


@pytest.fixture
def budget(url, name):
    made = hg.Budget(name, TOTAL, 1e-3, url=url)
    yield made
    made.disconnect()


def test_what_is_reserved_is_held_and_composed(budget):
    assert budget.epsilon_held == 0
    budget.reserve(M, "a")
    assert budget.epsilon_held == ONE
    budget.reserve(M, "b")
    both = dpa.ComposedDpEvent([M.event, M.event])
    # Tightly composed: less than the sum of both.
    assert budget.epsilon_held == accounting.epsilon(both, 1e-3) < 2 * ONE
    assert [(r.name, r.status, r.steps, r.charged) for r in budget.runs] == [
        ("a", "open", 12, 0),
        ("b", "open", 12, 0),
    ]


def test_what_does_not_fit_is_refused_and_holds_nothing(budget):
    many = mechanism(steps=500)
    held = budget.left(many)
    assert 0 < held < 500
    costs = [many.epsilon(steps=steps) for steps in (held, held + 1)]
    assert costs[0] <= TOTAL < costs[1]
    with pytest.raises(BudgetError, match=rf"It holds {held} of the run's 500 steps") as caught:
        budget.reserve(many, "a")
    assert f"with this run it would be {many.epsilon():.4g}" in str(caught.value)
    assert budget.runs == []
    budget.reserve(mechanism(steps=held), "a")
    assert budget.left(M) < 12


def test_a_run_that_ends_gives_back_what_it_did_not_spend(budget):
    held = budget.reserve(M, "a")
    held.charge(1)
    held.finish(5)
    assert budget.epsilon_held == M.epsilon(steps=5)
    assert budget.runs[0].status == "finished"
    held.finish(5)  # as often as one likes
    with pytest.raises(BudgetError, match=r"was closed .* may release nothing more"):
        held.charge(12)


def test_charges_are_never_behind(budget):
    held = budget.reserve(mechanism(steps=300, noise_multiplier=20.0), "a")
    for step in range(1, 301):
        held.charge(step)
        assert step <= held.charged <= 300
        assert budget.runs[0].charged == held.charged
    # Quick steps are charged together.
    assert budget.verify() < 60


def test_no_step_beyond_those_reserved(budget):
    held = budget.reserve(M, "a")
    held.charge(M.steps)
    with pytest.raises(BudgetError, match=f"holds {M.steps} steps of run 'a', and no step"):
        held.charge(M.steps + 1)


def test_a_dead_run_keeps_its_reservation_until_it_is_closed(budget, url, name):
    held = budget.reserve(M, "a")
    held.charge(3)
    other = hg.Budget(name, url=url)
    assert other.epsilon_held == ONE
    other.close("a")
    assert other.epsilon_held == M.epsilon(steps=held.charged)
    assert other.runs[0].status == "closed"
    # It was not dead: it notices before it releases.
    with pytest.raises(BudgetError, match="may release nothing more"):
        held.charge(held.charged + 1)
    with pytest.raises(BudgetError, match="was closed after"):
        budget.reserve(M, "a")
    for run in ("a", "b"):
        with pytest.raises(InputError, match="run must be one of the open ones"):
            other.close(run)
    other.disconnect()


def test_a_run_that_goes_on_holds_what_it_held(budget, url, name):
    budget.reserve(M, "a").charge(3)
    other = hg.Budget(name, url=url)
    again = other.reserve(M, "a")
    assert again.charged >= 3
    assert other.epsilon_held == ONE
    with pytest.raises(BudgetError, match="holds another mechanism"):
        other.reserve(mechanism(steps=11), "a")
    other.disconnect()


def test_a_copy_of_a_run_takes_over_and_the_other_is_told(budget, url, name):
    """What the first charged counts; what the second charges is no leave for the first."""
    first = budget.reserve(M, "a", directory="here")
    first.charge(3)
    charged = first.charged
    other = hg.Budget(name, url=url)
    second = other.reserve(M, "a", directory="there")
    first.charge(charged)  # was charged before: covered, whoever goes on
    second.charge(6)
    assert budget.epsilon_held == ONE  # and so this object knows of all rows
    for claim in (lambda: first.charge(6), lambda: first.finish(4)):
        with pytest.raises(BudgetError, match="goes on elsewhere, in 'there'"):
            claim()
    second.finish(1)
    assert budget.runs[0].charged == charged
    assert budget.epsilon_held == M.epsilon(steps=charged)
    other.disconnect()


def test_what_a_dead_process_charged_stays_charged(budget, url, name):
    budget.reserve(M, "a").charge(7)
    charged = budget.runs[0].charged
    other = hg.Budget(name, url=url)
    again = other.reserve(M, "a")
    again.finish(5)
    assert other.runs[0].charged == charged >= 7
    other.disconnect()


def test_opening_a_budget_that_is_there(budget, url, name):
    again = hg.Budget(name, TOTAL, url=url)
    assert (again.epsilon, again.delta, again.unit) == (TOTAL, 1e-3, "example")
    again.disconnect()
    for changed in (
        {"epsilon": 2.5},
        {"delta": 1e-4},
        {"neighbouring_relation": "replace-one"},
        {"unit": "user"},
        {"accountant": "rdp"},
    ):
        with pytest.raises(BudgetError, match=f"made with {next(iter(changed))}="):
            hg.Budget(name, url=url, **changed)
    with pytest.raises(InputError, match=r"there is no budget 'none'.*: give epsilon and delta"):
        hg.Budget("none", url=url)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"name": ""}, "name must be a text"),
        ({"epsilon": -1.0}, "epsilon must be a positive"),
        ({"delta": 1.0}, "delta must lie strictly"),
        ({"neighbouring_relation": "none"}, "neighbouring_relation must be one of"),
        ({"accountant": "none"}, "accountant must be one of"),
        ({"patience": 0}, "patience must be a positive"),
    ],
)
def test_arguments_that_are_none(tmp_path, changed, told):
    settings = {"name": "a", "epsilon": 1.0, "delta": 1e-3, "url": f"sqlite:///{tmp_path}/b"}
    with pytest.raises(InputError, match=told):
        hg.Budget(**{**settings, **changed})
    assert not (tmp_path / "b").exists()


def test_what_a_budget_hides_its_runs_must_hide(tmp_path):
    url = f"sqlite:///{tmp_path / 'b.sqlite'}"
    plain = hg.Budget("plain", 50.0, 1e-3, url=url)
    shuffled = mechanism(sampling=hg.sampling.Shuffle)
    drawn = mechanism(sampling=hg.sampling.FixedSize)
    for other in (shuffled, drawn):
        with pytest.raises(BudgetError, match="cannot hold a mechanism for replace-"):
            plain.reserve(other)
    with pytest.raises(BudgetError, match="for the unit 'example'"):
        plain.reserve(mechanism(unit="user"))
    with pytest.raises(InputError, match="mechanism must come from"):
        plain.reserve("dp")
    special = hg.Budget("special", 50.0, 1e-3, url=url, neighbouring_relation="replace-special")
    for other in (M, shuffled):
        special.reserve(other)
    replaced = hg.Budget("one", 50.0, 1e-3, url=url, neighbouring_relation="replace-one")
    for other in (M, shuffled, drawn):
        replaced.reserve(other)
    # Replaced, an example moves a sum by two clips: dearer than the mechanism says itself.
    alone = accounting.epsilon(M.event, 1e-3, relation="replace-one")
    assert replaced.to_dict()["runs"][0]["epsilon_alone"] == alone > ONE


def test_compositions_that_only_renyi_covers(tmp_path):
    url = f"sqlite:///{tmp_path / 'b.sqlite'}"
    renyi = hg.Budget("a", 5.0, 1e-3, url=url, accountant="rdp")
    renyi.reserve(M)
    assert renyi.epsilon_held == M.epsilon(accountant="rdp") > ONE


def test_it_is_shown_as_data(budget):
    budget.reserve(M, "a", directory="/runs/a").charge(1)
    facts = budget.to_dict()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["epsilon_held"] == ONE
    run = facts["runs"][0]
    assert (run["name"], run["status"], run["directory"]) == ("a", "open", "/runs/a")
    assert accounting.from_plain(run["event"]) == M.event
    assert facts["head"] == budget.head


def test_a_changed_budget_shows(tmp_path):
    file = tmp_path / "b.sqlite"
    made = hg.Budget("a", TOTAL, 1e-3, url=f"sqlite:///{file}")
    made.reserve(M, "x")
    noted = made.head
    made.reserve(M, "y")
    assert made.verify() == 3
    assert made.verify(noted) == 3
    with sqlite3.connect(file) as database:
        database.execute("delete from entries where number = 3")
    # The end was cut off: only who noted its hash can tell.
    fresh = hg.Budget("a", url=f"sqlite:///{file}")
    assert fresh.verify(noted) == 2
    with pytest.raises(LedgerError, match="changed the ledger or cut it off"):
        fresh.verify(made._journal.head)
    with sqlite3.connect(file) as database:
        database.execute("update entries set content = replace(content, '12', '13')")
    with pytest.raises(LedgerError, match="changed the ledger"):
        hg.Budget("a", url=f"sqlite:///{file}")


def test_a_training_run_is_held_charged_and_given_back(train, budget):
    ahead = []

    def watch(progress):
        (run,) = budget.runs
        ahead.append(run.charged - progress.step)

    run = train(budget=budget, callback=watch)
    (held,) = budget.runs
    assert (held.status, held.charged) == ("finished", 12)
    assert min(ahead) >= 0
    assert run.epsilon == budget.epsilon_held == ONE
    # Once more: finished, and nothing is spent.
    train(budget=budget)
    assert budget.epsilon_held == ONE
    assert held.directory == str(run.directory)


def test_a_run_that_stops_early_gives_the_rest_back(train, budget):
    def stop(progress):
        if progress.step == 4:
            raise hg.StopTraining

    run = train(budget=budget, callback=stop)
    assert run.steps == budget.runs[0].charged == 4
    assert run.epsilon == budget.epsilon_held == M.epsilon(steps=4)
    assert train(budget=budget).steps == 4


def test_a_run_that_does_not_fit_leaves_nothing(train, tmp_path, url, name):
    small = hg.Budget(name, ONE / 2, 1e-3, url=url)
    with pytest.raises(BudgetError, match="of the run's 12 steps"):
        train(budget=small)
    assert small.runs == []
    small.disconnect()
    assert not (tmp_path / "run" / "run.json").exists()
    assert not (tmp_path / "run" / "secret.key").exists()
    assert train().steps == 12


def test_a_run_goes_on_under_its_budget_and_no_other(train, budget, tmp_path):
    with pytest.raises(Stop):
        train(budget=budget, stop_after=7)
    assert budget.runs[0].status == "open"
    with pytest.raises(hg.errors.ResumeError, match="made with budget"):
        train()
    assert train(budget=budget).steps == 12
    assert budget.epsilon_held == ONE
    with pytest.raises(InputError, match=r"budget must be a hg\.Budget"):
        train(budget="mine")


def test_a_run_closed_by_somebody_releases_nothing_more(train, budget):
    seen = []

    def close(progress):
        seen.append(progress.step)
        if progress.step == 2:
            budget.close(budget.runs[0].name)

    with pytest.raises(BudgetError, match="may release nothing more"):
        train(budget=budget, callback=close)
    # What was charged ahead may be released still: it stays spent.
    assert seen[-1] <= budget.runs[0].charged
    assert budget.epsilon_held == M.epsilon(steps=budget.runs[0].charged)


@needs_server
def test_a_database_that_is_gone_for_a_while(server, train):
    budget = hg.Budget("gone", 3 * ONE, 1e-3, url=server.url, patience=60.0)

    def interrupt(progress):
        if progress.step == 3:
            server.stop()
            threading.Timer(1.5, server.start).start()

    began = time.monotonic()
    run = train(budget=budget, callback=interrupt)
    assert time.monotonic() - began > 1.4
    assert run.steps == budget.runs[0].charged == 12
    assert budget.runs[0].status == "finished"
    budget.disconnect()


def reserve_many(url, name, number, results):
    budget, held = hg.Budget(name, url=url), 0
    m = mechanism(steps=3)
    for i in range(20):
        try:
            run = budget.reserve(m, f"{number}-{i}")
        except BudgetError:
            continue
        held += 1
        run.charge(1)
        run.finish(1 + i % 3)
    results.put(held)


def test_many_processes_at_once_never_exceed_it(url, name):
    """Six processes ask for far more than there is."""
    total = 4 * mechanism(steps=3).epsilon()
    budget = hg.Budget(name, total, 1e-3, url=url)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=reserve_many, args=(url, name, n, results)) for n in range(6)]
    for worker in workers:
        worker.start()
    held = sum(results.get(timeout=300) for _ in workers)
    for worker in workers:
        worker.join(timeout=60)
    assert held == len(budget.runs) > 4
    assert held < 6 * 20
    assert budget.epsilon_held <= total
    spent = [mechanism(steps=3).after(run.charged).event for run in budget.runs]
    assert budget.epsilon_held == pytest.approx(
        accounting.epsilon(dpa.ComposedDpEvent(spent), 1e-3), rel=1e-9
    )
    # At every moment of its history: with each reservation in full when it was made.
    assert replayed(budget) <= total
    budget.disconnect()


def replayed(budget) -> float:
    """The largest total that was ever held, row by row."""
    seen, events, spent, worst = [], {}, {}, 0.0
    journal = module.Journal(budget.url, budget.name, seen.append, 60.0)
    journal.refresh()
    journal.close()
    for entry in seen[1:]:
        run = entry.content["run"]
        if entry.kind == "reserve":
            events[run] = accounting.from_plain(entry.content["event"])
            composed = dpa.ComposedDpEvent(list(events.values()))
            worst = max(worst, accounting.epsilon(composed, budget.delta))
        elif entry.kind == "charge":
            spent[run] = accounting.from_plain(entry.content["event"])
        else:
            events[run] = spent[run]
    return worst


def test_the_users_own_file_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    made = hg.Budget("mine", 1.0, 1e-5)
    assert made.url == f"sqlite:///{tmp_path}/hushgrad/budgets.sqlite"
    assert (tmp_path / "hushgrad" / "budgets.sqlite").exists()
