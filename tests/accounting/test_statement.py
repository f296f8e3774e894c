"""The privacy statement, against golden files and against the mechanism it speaks of.

Where a change of the wording is meant, renew the golden files and read what changed:

    HUSHGRAD_WRITE_GOLDEN=1 python -m pytest tests/accounting/test_statement.py; git diff
"""

import json
import math
import os
import warnings
from pathlib import Path

import pytest

import hushgrad as hg
from hushgrad import accounting, clip

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).resolve().parents[2]


def mechanism(**changes) -> hg.Mechanism:
    settings = {"examples": 60_000, "batch_size": 256, "epochs": 60, "clip": 1.5}
    settings |= {"noise_multiplier": 1.1, "delta": 1e-5}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hg.dp_sgd(**(settings | changes))


SHUFFLED = mechanism(batch_size=32, epochs=1, noise_multiplier=0.5, sampling=hg.sampling.Shuffle)


def statements() -> dict[str, str]:
    small = mechanism(examples=1797, batch_size=64, epochs=3, noise_multiplier=2, delta=1e-3)
    return {
        "whole_run": mechanism().statement(),
        "first_100_steps_seeded": accounting.statement(mechanism(), steps=100, seeded=True),
        "delta_too_large": small.statement(),
        "adaptive_clip": mechanism(clip=clip.Adaptive(0.6)).statement(),
        "users": mechanism().statement(max_examples_per_user=3),
        "shuffled": SHUFFLED.statement(max_examples_per_user=3),
    }


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return statements()


@pytest.mark.parametrize(
    "name",
    [
        *("whole_run", "first_100_steps_seeded", "delta_too_large", "adaptive_clip"),
        *("users", "shuffled"),
    ],
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


def test_shuffled_batches_have_both_numbers():
    """Those of TensorFlow Privacy's own statement, and the tight ones."""
    text = " ".join(SHUFFLED.statement().split())
    assert "epsilon = 10.7255 RDP accounting; each example once per epoch" in text
    assert "epsilon = 3.7999 RDP accounting IF BATCHES WERE POISSON SAMPLES, WHICH" in text
    assert "replace-special adjacency" in text
    assert SHUFFLED.epsilon(accountant="rdp") == pytest.approx(10.7255, abs=1e-4)
    assert SHUFFLED.epsilon() == pytest.approx(9.9973, abs=1e-4)
    readings = accounting.statement_facts(SHUFFLED)["readings"]
    assert [r["status"] for r in readings] == ["proved", "proved", "assumed", "assumed"]


def test_samples_of_one_size_are_told_and_what_is_not_known_of_them():
    m = mechanism(epochs=1, noise_multiplier=2.0, sampling=hg.sampling.FixedSize)
    text = " ".join(m.statement(max_examples_per_user=2).split())
    assert "256 examples drawn for each without replacement" in text
    assert "replace-one adjacency" in text
    assert f"epsilon = {m.epsilon():.4f} PLD accounting; samples of one size" in text
    assert "no guarantee is known; samples of one size" in text
    # Replaced, not removed: dearer than coins at the same noise.
    assert m.epsilon() > mechanism(epochs=1, noise_multiplier=2.0).epsilon()


def test_balls_in_bins_are_as_dear_as_shuffled_and_hide_presence():
    m = mechanism(batch_size=32, epochs=1, noise_multiplier=0.5, sampling=hg.sampling.BallsInBins)
    assert (m.steps, m.neighbouring_relation) == (1875, "add-or-remove-one")
    assert m.epsilon() == pytest.approx(SHUFFLED.epsilon(), rel=1e-9)
    text = " ".join(m.statement().split())
    assert "each example in one batch of its own choice" in text
    assert "POISSON" not in text


def test_users_cost_more_with_every_example():
    def of(m, most):
        facts = accounting.statement_facts(m, max_examples_per_user=most)
        return facts["user"]["readings"][0]["epsilon"]

    for m in (mechanism(epochs=2), SHUFFLED):
        assert of(m, 1) == pytest.approx(m.epsilon(), rel=1e-6)
        assert m.epsilon() < of(m, 2) < of(m, 5)
    # However many: nobody listed is forgotten, and nothing overflows.
    huge = [of(mechanism(epochs=1), most) for most in (100, 10_000)]
    assert 10 < huge[0] < huge[1] < math.inf
    # All in one batch, the noise is a third of what it was: exactly one Gaussian.
    assert of(SHUFFLED, 3) == pytest.approx(mechanism_epsilon(0.5 / 3), rel=1e-6)
    for wrong in (0, -1, 1.5, "3"):
        with pytest.raises(hg.errors.InputError, match="max_examples_per_user"):
            SHUFFLED.statement(max_examples_per_user=wrong)


def test_microbatches_halve_the_noise_and_promise_users_nothing_by_coins():
    half = mechanism(epochs=2, noise_multiplier=mechanism().noise_multiplier / 2)
    text = " ".join(mechanism(epochs=2).statement(microbatching=True).split())
    assert f"epsilon = {half.epsilon():.4f}" in text
    assert "the noise counts half here" in text
    facts = accounting.statement_facts(
        mechanism(epochs=2), microbatching=True, max_examples_per_user=3
    )
    assert facts["microbatching"]
    assert facts["user"]["readings"][0]["status"] == "none"
    one = accounting.statement_facts(
        mechanism(epochs=2), microbatching=True, max_examples_per_user=1
    )
    assert one["user"]["readings"][0]["epsilon"] == pytest.approx(half.epsilon())


def test_groups_and_users_are_the_unit():
    settings = {"examples": 60_000, "batch_size": 256, "epochs": 2, "delta": 1e-5}
    group = hg.dp_sgd(**settings, noise_multiplier=1.1, unit="group of 3")
    facts = accounting.statement_facts(mechanism(epochs=2), max_examples_per_user=3)
    assert group.epsilon() == pytest.approx(facts["user"]["readings"][0]["epsilon"])
    text = " ".join(group.statement().split())
    assert "any 3 examples together were in the training data" in text
    assert "Whoever has several examples" not in text
    found = hg.dp_sgd(**settings, epsilon=2.0, unit="group of 3")
    assert 1.998 <= found.epsilon() <= 2.0
    assert accounting.statement_facts(group)["unit"] == "group of 3"
    shuffled = {**settings, "noise_multiplier": 3.0, "sampling": hg.sampling.Shuffle}
    group = hg.dp_sgd(**shuffled, unit="group of 3")
    assert group.event == accounting.poisson_gaussian(1.0, 1.0, 2)
    text = " ".join(group.statement().split())
    assert "any 3 examples together were in the training data or empty ones in their" in text
    user = hg.dp_sgd(**settings, noise_multiplier=1.1, unit="user")
    assert user.epsilon() == mechanism(epochs=2).epsilon()
    text = " ".join(user.statement().split())
    assert "any one user, with all their data, was in the training data" in text
    assert "DP-SGD over 60,000 users" in text
    for name in ("FixedSize", "CyclicPoisson", "TruncatedPoisson"):
        sampler = getattr(hg.sampling, name)
        with pytest.raises(hg.errors.InputError, match="no guarantee for a group of 3"):
            hg.dp_sgd(**settings, noise_multiplier=1.1, unit="group of 3", sampling=sampler)
    for unit in ("group of 0", "group", "users", 3, None, "group of 1.5"):
        with pytest.raises(hg.errors.InputError, match="unit must be"):
            hg.dp_sgd(**settings, noise_multiplier=1.1, unit=unit)


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        (
            hg.sampling.TruncatedPoisson.of(60_000, 256, 300),
            "batch size 256), cut to 300",
        ),
        (hg.sampling.CyclicPoisson.of(60_000, 256, 4), "0.0170667 from one of 4 parts of the data"),
    ],
)
def test_other_samplings_are_told(sampling, words):
    m = mechanism(epochs=1, sampling=sampling)
    text = " ".join(m.statement(max_examples_per_user=2).split())
    assert words in text
    assert "no guarantee is known" in text
    assert f"epsilon = {m.epsilon():.4f} PLD accounting; Poisson samples" in text


def mechanism_epsilon(noise: float) -> float:
    return accounting.epsilon(accounting.poisson_gaussian(1.0, noise, 1), 1e-5)


def test_the_facts_are_what_the_schema_says():
    schema = json.loads((ROOT / "docs" / "statement.schema.json").read_text())
    for facts in (
        accounting.statement_facts(mechanism(), steps=10, seeded=True),
        accounting.statement_facts(SHUFFLED, max_examples_per_user=4),
    ):
        plain = json.loads(json.dumps(facts, allow_nan=False))
        assert plain == facts
        assert set(schema["required"]) <= set(plain) <= set(schema["properties"])
        reading = schema["properties"]["readings"]["items"]
        for found in plain["readings"]:
            assert set(reading["required"]) <= set(found) <= set(reading["properties"])
            assert found["status"] in reading["properties"]["status"]["enum"]


def test_what_an_attacker_gains_is_bounded_by_the_guarantee():
    m = mechanism()
    attack = accounting.statement_facts(m)["attack"]
    epsilon = m.epsilon()
    share = attack["false_positive"]
    # (epsilon, delta) alone allows as much as this; the whole curve allows less.
    assert share < attack["true_positive_at_most"] <= math.exp(epsilon) * share + m.delta
    assert attack["posterior_from_even_odds"] == pytest.approx(1 / (1 + math.exp(-epsilon)))
