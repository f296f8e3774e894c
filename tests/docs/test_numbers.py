"""Numbers on the pages are those of the library, or of the results that they are taken from."""

import dataclasses
import re

import pages as documentation
import pytest

import hushgrad as hg

DOCS = documentation.DOCS
PLAN = {"examples": 60_000, "batch_size": 256, "epochs": 15, "clip": 1.0, "delta": 1e-5}


def table(page, head):
    """Rows of the table whose first line begins so."""
    lines = page.read_text(encoding="utf-8").split(head, 1)[1].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


@pytest.fixture(scope="module")
def three():
    return hg.dp_sgd(**PLAN, epsilon=3.0)


def test_what_an_attacker_can_do():
    rows = table(DOCS / "epsilon.md", "| epsilon | noise multiplier |")
    assert [row[0] for row in rows] == ["0.5", "1", "2", "3", "5", "8"]
    for epsilon, noise, hundred, thousand, sure in rows:
        m = hg.dp_sgd(**PLAN, epsilon=float(epsilon))
        assert m.noise_multiplier == pytest.approx(float(noise), rel=5e-3)
        for share, said in ((0.01, hundred), (0.001, thousand)):
            found = hg.accounting.advantage(m, share) + share
            assert found == pytest.approx(float(said.rstrip("%")) / 100, rel=0.04)
        surely = hg.accounting.posterior(m, 1e-5)
        if said := re.fullmatch(r"([\d.]+)%", sure):
            assert surely == pytest.approx(float(said[1]) / 100, abs=6e-4)
        else:
            assert sure == "above 99.9%"
            assert surely > 0.999


def test_delta_unit_and_relation(three):
    text = (DOCS / "epsilon.md").read_text(encoding="utf-8")
    (deltas,) = re.findall(r"\| delta \| (.*) \|", text)
    ((_, *said),) = table(DOCS / "epsilon.md", "| delta | 1e-4 ")
    for delta, epsilon in zip(deltas.split(" | "), said, strict=True):
        assert three.epsilon(delta=float(delta)) == pytest.approx(float(epsilon), abs=6e-3)
    ((_, *said),) = table(DOCS / "epsilon.md", "| any | one row ")
    for rows, epsilon in zip((1, 2, 4, 6), said, strict=True):
        group = dataclasses.replace(three, unit=f"group of {rows}")
        assert group.epsilon() == pytest.approx(float(epsilon), abs=0.06)
    assert "# 3.0 and 4.0" in text
    replaced = hg.accounting.epsilon(three.event, 1e-5, relation="replace-one")
    assert replaced == pytest.approx(4.0, abs=0.05)


def test_what_sampling_is_worth():
    text = (DOCS / "dp-sgd.md").read_text(encoding="utf-8")
    ((poisson, shuffled),) = re.findall(
        r"epsilon is ([\d.]+) with\s+Poisson.*?([\d.]+) is", text, re.S
    )
    drawn = hg.dp_sgd(**PLAN, noise_multiplier=1.0)
    passes = hg.dp_sgd(**PLAN, noise_multiplier=1.0, sampling=hg.sampling.Shuffle)
    assert drawn.epsilon() == pytest.approx(float(poisson), abs=6e-3)
    assert passes.epsilon() == pytest.approx(float(shuffled), abs=0.06)


def test_what_more_people_are_worth():
    text = (DOCS / "learning.md").read_text(encoding="utf-8")
    ((first, second, third),) = re.findall(
        r"it is ([\d.]+) for 30,000\s+people, ([\d.]+) for 60,000 and ([\d.]+) for 120,000", text
    )
    for people, said in ((30_000, first), (60_000, second), (120_000, third)):
        m = hg.dp_sgd(examples=people, batch_size=256, steps=3516, delta=1e-6, noise_multiplier=1.1)
        assert m.epsilon() == pytest.approx(float(said), abs=6e-3)


def test_speed_is_that_of_the_results():
    steps = DOCS / "results" / "steps.md"
    ours, others = table(steps, "| model | ordinary ms"), table(steps, "| ms | hushgrad")
    assert table(DOCS / "slow.md", "| model | ordinary ms") == ours
    shown = table(documentation.ROOT / "README.md", "| model | hushgrad |")
    for row, one, other in zip(shown, ours, others, strict=True):
        opacus = [float(cell) for cell in other[5:9] if cell != "-"]
        times = [
            float(other[1]),
            float(other[2]),
            float(other[3]),
            *([min(opacus)] if opacus else []),
        ]
        assert row[0] == one[0] == other[0]
        for said, time in zip(row[1:], times, strict=False):
            assert float(said.replace(",", "")) == pytest.approx(time, abs=0.51)
        assert row[5] == one[6]


def test_accounting_is_that_of_the_results():
    measured = table(DOCS / "results" / "accounting.md", "| case | epsilon ms")
    for row in table(DOCS / "planning.md", "| case | epsilon ms"):
        assert row in [found[:7] for found in measured]


def test_accuracy_is_that_of_the_results():
    measured = table(DOCS / "results" / "mnist.md", "| learning rate | clip")[:3]
    readme = documentation.ROOT / "README.md"
    for row, found in zip(
        table(DOCS / "results" / "README.md", "| epsilon | TensorFlow"), measured, strict=True
    ):
        assert row[1] == found[7]
        assert float(row[2].rstrip("%")) == pytest.approx(float(found[6].split("%")[0]), abs=0.051)
        assert row[2] in readme.read_text()


# What a page says, and what stands in the result that it is taken from.
QUOTED = [
    ("learning.md", "99.00%", "scattering.md", "99.00 ±"),
    ("learning.md", "69.75%", "scattering.md", "69.75 ±"),
    ("learning.md", "94.98%", "mnist.md", "94.98%"),
    ("learning.md", "96.20%", "mnist.md", "96.20%"),
    ("learning.md", "97.48%", "mnist.md", "97.48%"),
    ("learning.md", "from 72.2% to 92.2%, 87.2%", "tuning.md", "from 72.2% to 92.2%, 87.2%"),
    ("learning.md", "91.2% against 80.5%", "correlated.md", "| BLT | 91.2 ± 0.9"),
    ("slow.md", "12.7 times", "fit.md", "12.68"),
    ("slow.md", "381 ms against 272", "steps.md", "| 271.9 |"),
    ("budgets.md", "272 charges", "runtime.md", "| PostgreSQL | 272 |"),
    ("tables.md", "85.8%", "adult.md", "| 85.84% |"),
    ("engine.md", "14.9 MiB", "steps.md", "| 6.0 | 14.9 |"),
    (
        "federated.md",
        "0.15 s where FedJAX took 0.19 and pfl 0.40",
        "federated_rounds.md",
        "| 0.151 |",
    ),
    ("migrating-from-tensorflow-federated.md", "104 clients", "federated.md", "104 by PLD"),
]


@pytest.mark.parametrize(("page", "said", "result", "stands"), QUOTED)
def test_quotations_are_those_of_the_results(page, said, result, stands):
    text = " ".join((DOCS / page).read_text(encoding="utf-8").split())
    assert said in text
    assert stands in (DOCS / "results" / result).read_text(encoding="utf-8")
