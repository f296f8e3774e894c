"""The example of tuning, on a slice: its epsilons hold the search, and its batches the rule."""

import itertools
import re

import numpy as np
import pytest

import hushgrad as hg
from hushgrad.training.secret import RunSecret


def images(count, seed):
    rng = np.random.default_rng(seed)
    return rng.random((count, 28, 28), np.float32), rng.integers(0, 10, count).astype(np.int32)


@pytest.fixture
def tuning(example, monkeypatch):
    """The example with few steps, on which the rules do not depend."""
    numbers = itertools.count(2)  # a tuning draws two runs then
    monkeypatch.setattr(RunSecret, "fresh", classmethod(lambda cls: cls.from_seed(next(numbers))))
    module = example("tuning")
    for name, value in {
        "BATCH": 40,
        "STEPS": 4,
        "CANDIDATES": ((0.5, 1.0), (2.0, 0.5)),
        "MEAN": 2.0,
        "DELTA": 1e-4,
    }.items():
        monkeypatch.setattr(module, name, value)
    return module


@pytest.fixture
def data(tuning):
    return tuning.Data.of(hg.datasets.Dataset("made up", images(200, 0), images(40, 1), 10))


def columns(row):
    return [cell.strip(" *") for cell in row.strip("|").split("|")]


@pytest.mark.parametrize("total", [1.0, 3.0])
def test_the_epsilon_of_the_table_holds_the_choice(tuning, total):
    """As Papernot and Steinke charge it; one run alone costs much less, and is not what is told."""
    selection = tuning.within(total, 180)
    m = selection.mechanism
    assert 0.998 * total <= selection.epsilon() <= total
    assert selection.mean == tuning.MEAN
    assert m.epsilon(accountant="rdp") < 0.9 * total
    made = {"candidate": [0.5, 1.0], "accuracy": 0.9, "seconds": 1.0}
    name, told, accountant, noise, *one = columns(tuning.tuned_row(selection, [made, made]))[:6]
    assert (name[:9], accountant) == ("`hg.tune`", "RDP")
    assert float(told) == pytest.approx(selection.epsilon(), abs=6e-4)
    assert float(noise) == pytest.approx(m.noise_multiplier, abs=6e-4)
    assert [float(each) for each in one] == pytest.approx(
        [m.epsilon(), m.epsilon(accountant="rdp")], abs=6e-4
    )
    # More noise than a run that nobody chose from others, at the same total.
    assert m.noise_multiplier > tuning.one_run(180, 1.0, epsilon=total).noise_multiplier


def test_a_tuning_spends_what_is_told_and_is_scored_on_public_rows(tuning, data, monkeypatch):
    looked, trained = [], []
    accuracy, train = tuning.accuracy, hg.train
    monkeypatch.setattr(
        tuning, "accuracy", lambda run, part: looked.append(part) or accuracy(run, part)
    )

    def spied(loss, params, rows, m, **options):
        trained.append((rows, m))
        return train(loss, params, rows, m, **options)

    monkeypatch.setattr(hg, "train", spied)
    found = tuning.tuned(data, 3.0)
    assert tuple(found["candidate"]) in tuning.CANDIDATES
    assert found["epsilon"] == tuning.within(3.0, len(data.private[0])).epsilon() <= 3.0
    assert 0 <= found["accuracy"] <= 1
    assert looked
    assert all(part is data.public for part in looked)
    assert all(rows is data.private for rows, _ in trained)
    assert {m.noise_multiplier for _, m in trained} == {
        tuning.within(3.0, len(data.private[0])).mechanism.noise_multiplier
    }


def test_parts_share_no_image_and_are_always_the_same(tuning, data):
    again = tuning.Data.of(hg.datasets.Dataset("made up", images(200, 0), images(40, 1), 10))
    np.testing.assert_array_equal(again.public[0], data.public[0])
    assert [len(part[0]) for part in (data.private, data.public, data.test)] == [180, 20, 40]
    both = np.concatenate([data.private[0], data.public[0]]).reshape(200, -1)
    assert len(np.unique(both, axis=0)) == 200


def test_batches_are_the_smallest_that_keep_epsilon(tuning):
    tried = 5e-3
    batch = tuning.smallest_batch(tried, 3.0, 5_000)
    assert batch is not None
    spent = [tuning.at_ratio(tried, size, 5_000).epsilon() for size in (batch, batch - 1)]
    assert spent[0] <= 3.0 < spent[1]
    m = tuning.at_ratio(tried, batch, 5_000)
    assert m.noise_multiplier / m.batch_size == pytest.approx(tried)
    # Below the least ratio of all there is none.
    least = tuning.least_ratio(3.0, 5_000)
    assert tuning.smallest_batch(0.98 * least, 3.0, 5_000) is None
    assert tuning.smallest_batch(1.02 * least, 3.0, 5_000) is not None


def test_the_page_is_made_of_every_cell(tuning, data, monkeypatch):
    for name, value in {
        "RATIOS": (1e-6, 5e-3, 3e-2),
        "RATES": (1.0,),
        "BATCHES": (64, 128),
        "SHOWN": 5e-3,
        "EPSILONS": (8.0,),
        "SMALL": 8,
    }.items():
        monkeypatch.setattr(tuning, name, value)
    found = {}
    for name, work in tuning.works(data, 1, 1, found):
        kind = name.split()[0]
        if kind in ("explored", "kept"):  # the others are trained in tests of their own
            found[name] = work()
        else:
            found[name] = {"public": 0.5, "accuracy": 0.5, "seconds": 1.0, "candidate": [0.5, 1.0]}
    kept = found["kept 8 0"]
    assert 0 <= kept["accuracy"] <= 1
    text = tuning.report(found, "command", 1, 1, (180, 20))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    for head, count in (("| untuned", 2), ("| **`hg.tune`", 2), ("| by hand", 2)):
        assert sum(row.startswith(head) for row in rows) == count
    # What the search by hand claims, and what composition charges for it.
    for total, row in zip(
        (1.0, 3.0), [row for row in rows if row.startswith("| by hand")], strict=True
    ):
        charged, claimed = map(float, re.findall(r"\| ([\d.]+) \(claimed: ([\d.]+)\)", row)[0])
        assert claimed <= total < charged
    (row,) = [row for row in rows if row.startswith("| epsilon 8")]
    ratio, batch, noise, _, spent, *_ = columns(row)[1:]
    assert float(spent) <= 8.0
    assert float(noise) == pytest.approx(float(ratio) * float(batch), rel=1e-2)
