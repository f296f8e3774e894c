"""The privacy statement, against golden files and against the mechanism it speaks of.

Where a change of the wording is meant, renew the golden files and read what changed:

    HUSHGRAD_WRITE_GOLDEN=1 python -m pytest tests/accounting/test_statement.py; git diff
"""

import os
import warnings
from pathlib import Path

import pytest

import hushgrad as hg
from hushgrad import accounting, clip

GOLDEN = Path(__file__).parent / "golden"


def mechanism(**changes) -> hg.Mechanism:
    settings = {"examples": 60_000, "batch_size": 256, "epochs": 60, "clip": 1.5}
    settings |= {"noise_multiplier": 1.1, "delta": 1e-5}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hg.dp_sgd(**(settings | changes))


def statements() -> dict[str, str]:
    small = mechanism(examples=1797, batch_size=64, epochs=3, noise_multiplier=2, delta=1e-3)
    return {
        "whole_run": mechanism().statement(),
        "first_100_steps_seeded": accounting.statement(mechanism(), steps=100, seeded=True),
        "delta_too_large": small.statement(),
        "adaptive_clip": mechanism(clip=clip.Adaptive(0.6)).statement(),
    }


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return statements()


@pytest.mark.parametrize(
    "name", ["whole_run", "first_100_steps_seeded", "delta_too_large", "adaptive_clip"]
)
def test_golden(texts, name):
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("HUSHGRAD_WRITE_GOLDEN"):
        file.write_text(texts[name] + "\n", encoding="utf-8")
    assert texts[name] + "\n" == file.read_text(encoding="utf-8")


def test_it_says_what_the_mechanism_costs(texts):
    m = mechanism()
    text = " ".join(texts["whole_run"].split())
    for accountant in ("pld", "rdp"):
        assert f"epsilon = {m.epsilon(accountant=accountant):.4f}" in text
    assert "14,063 steps" in text
    assert "expected batch size 256" in text
    assert "add-or-remove-one adjacency" in text
    assert "Poisson sampling" in text


def test_another_clip_is_told_and_costs_the_same(texts):
    text = " ".join(texts["adaptive_clip"].split())
    assert "starts at 0.1 and follows the 0.6 quantile of their norms" in text
    assert "noise of deviation 12.8" in text
    assert f"epsilon = {mechanism().epsilon():.4f}" in text


def test_fewer_steps_cost_less(texts):
    text = texts["first_100_steps_seeded"]
    assert "100 steps" in text
    assert f"epsilon = {mechanism(epochs=None, steps=100).epsilon():.4f}" in text
    assert f"{mechanism().epsilon():.4f}" not in text


def test_only_a_seeded_run_says_so(texts):
    assert "SEEDED: not private against whoever knows the seed" in texts["first_100_steps_seeded"]
    assert "SEEDED" not in texts["whole_run"]
    assert accounting.statement(mechanism()) == texts["whole_run"]


def test_a_delta_that_is_too_large_is_shouted(texts):
    assert "IT IS NOT BELOW 1/1,797" in texts["delta_too_large"]
    assert "NOT BELOW" not in texts["whole_run"]


def test_what_is_not_covered_is_always_said(texts):
    for text in texts.values():
        assert "Not covered: training losses and metrics" in text


def test_it_fits_a_terminal(texts):
    assert max(len(line) for text in texts.values() for line in text.splitlines()) <= 80
