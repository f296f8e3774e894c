"""Secrets in texts, and how much of them is exposed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hushgrad.audit.exposure import (
    exposure_by_extrapolation,
    exposure_by_interpolation,
    log_perplexity,
    secrets,
)
from hushgrad.errors import InputError


def test_interpolation_is_tensorflow_privacys():
    """Those of exposures_test.py, in the order of the secrets."""
    found = exposure_by_interpolation([20.0, 0.0, 3.5, 0.1], np.arange(1.0, 17))
    np.testing.assert_allclose(found, [np.log2(16 / 17), 4, 2, 4], rtol=1e-14)


def test_a_model_that_finds_all_alike_exposes_nothing():
    found = exposure_by_interpolation([1.0, 1.0], np.ones(1000))
    assert np.all(np.abs(found) < 0.01)
    # Half of the references score the same as the secret: these stand before it.
    assert exposure_by_interpolation([2.0], [1, 2, 2, 3]) == pytest.approx([0.0])


def test_exposure_of_what_was_never_seen_is_geometric():
    """At least k bits with probability 2 ** -k: a binomial of 20,000, one in a million."""
    rng = np.random.default_rng(0)
    found = exposure_by_interpolation(rng.normal(size=20_000), rng.normal(size=200_000))
    for bits in (1, 3, 6):
        low, high = stats.binom.interval(1 - 3e-7, 20_000, 2.0**-bits)
        # References are a sample too: a tenth of its size widens it by a twentieth.
        assert low * 0.9 < np.sum(found >= bits) < high * 1.1


def test_extrapolation_is_tensorflow_privacys():
    """Minus log2 of the fitted distribution function, as in exposures_test.py."""
    parameters, rng = (4, 0, 1), np.random.default_rng(2)
    references = stats.skewnorm.rvs(*parameters, size=2000, random_state=rng)
    own = stats.skewnorm.rvs(*parameters, size=7, random_state=rng)
    fitted = stats.skewnorm.fit(references)
    expected = -np.log2(stats.skewnorm.cdf(own, *fitted))
    np.testing.assert_allclose(exposure_by_extrapolation(own, references), expected, rtol=1e-12)


def test_extrapolation_goes_on_in_the_tail():
    """Against mpmath-free truth: with a shape of almost zero it is the normal's logcdf."""
    references = np.random.default_rng(0).normal(50, 2, size=2000)
    shape, place, scale = stats.skewnorm.fit(references)
    own = place + scale * np.array([-4.0, -6.0, -12.0, -40.0])
    found = exposure_by_extrapolation(own, references)
    assert np.all(np.isfinite(found))
    assert np.all(np.diff(found) > 0)
    # The integral of the density from far below, on a grid, where doubles still can.
    for value, exposure in zip(own[:3], found[:3], strict=True):
        grid = np.linspace(value - 3 * scale, value, 200_001)
        area = np.trapezoid(stats.skewnorm.pdf(grid, shape, place, scale), grid)
        assert exposure == pytest.approx(-np.log2(area), rel=1e-6)


def test_a_memorised_secret_is_exposed():
    """A table of probabilities of the next token, trained on one sequence more than others."""

    def loss(params, tokens):
        rows = jax.nn.log_softmax(params[tokens[:-1]])
        return -jnp.sum(jnp.take_along_axis(rows, tokens[1:, None], axis=1))

    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 10, (130, 6))
    params = jnp.zeros((10, 10))
    for _ in range(50):
        params = params - jax.grad(loss)(params, tokens[0])
    found = log_perplexity(loss, params, tokens)
    one = -np.log2(np.exp(-float(loss(params, tokens[3]))))
    assert found[3] == pytest.approx(one, rel=1e-5)
    np.testing.assert_allclose(found, log_perplexity(loss, params, (tokens,), block=7), rtol=1e-5)
    assert exposure_by_interpolation(found[:1], found[2:]) == pytest.approx([7.0])
    assert exposure_by_extrapolation(found[:1], found[2:]) > 5


def test_secrets_are_different_texts_of_the_pattern():
    made = secrets("my pin is {}{}{}!", "0123456789", repetitions={1: 3, 8: 2}, references=50)
    every = [*made.inserted[1], *made.inserted[8], *made.references]
    assert len(set(every)) == 55
    assert len(made.references) == 50
    assert all(text.startswith("my pin is ") and len(text) == 14 for text in every)
    texts = made.texts()
    assert len(texts) == 3 + 16
    assert all(texts.count(text) == 8 for text in made.inserted[8])
    again = secrets("my pin is {}{}{}!", "0123456789", repetitions={1: 3, 8: 2}, references=50)
    other = secrets(
        "my pin is {}{}{}!", "0123456789", repetitions={1: 3, 8: 2}, references=50, seed=1
    )
    assert again == made != other


def test_a_slot_has_its_own_words_and_all_texts_can_be_asked_for():
    made = secrets("{} is {}", [["ann", "bob"], ["5", "6", "7"]], repetitions={2: 1}, references=5)
    every = {*made.inserted[2], *made.references}
    assert every == {f"{a} is {n}" for a in ("ann", "bob") for n in "567"}


def test_all_texts_are_equally_likely():
    """Of nine texts the first of 2,000 draws: chi-squared, one in a million."""
    drawn = [
        secrets("{}{}", "abc", repetitions={1: 1}, references=1, seed=seed).inserted[1][0]
        for seed in range(2000)
    ]
    _, counts = np.unique(drawn, return_counts=True)
    assert len(counts) == 9
    assert np.sum((counts - 2000 / 9) ** 2 / (2000 / 9)) < stats.chi2.isf(1e-6, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": "no slot"}, "pattern must have {} for each slot .* got 'no slot'"),
        ({"pattern": "{name}"}, "pattern must have {} for each slot"),
        ({"pattern": "{"}, "pattern '{' cannot be read"),
        ({"pattern": 3}, "pattern must be a text .* got 3"),
        ({"vocabulary": []}, "vocabulary must hold words for every slot"),
        ({"vocabulary": ["a", "b", "a"]}, "vocabulary must hold each word once, got 'a' twice"),
        ({"vocabulary": [["a"]]}, "a list of words for each of 2 slots, got 1 lists"),
        ({"repetitions": {}}, "repetitions must say how many texts of which"),
        ({"repetitions": {0: 3}}, "repetitions must be a whole number of at least 1, got 0"),
        ({"references": 0}, "references must be a whole number of at least 1, got 0"),
        ({"references": 9}, "gives only 9 different texts, and 10 are asked for"),
        (
            {"vocabulary": ["a" * n for n in range(1, 99)], "references": 300},
            "gives only 195 different texts",
        ),
    ],
)
def test_bad_secrets_are_refused(changes, message):
    given = {"pattern": "{}{}", "vocabulary": "abc", "repetitions": {1: 1}, "references": 2}
    given = {**given, **changes}
    with pytest.raises(InputError, match=message):
        secrets(given.pop("pattern"), given.pop("vocabulary"), **given)


@pytest.mark.parametrize("exposure", [exposure_by_interpolation, exposure_by_extrapolation])
def test_bad_scores_are_refused(exposure):
    good = np.arange(20.0)
    with pytest.raises(InputError, match="secret_scores must not be NaN, got NaN at 1"):
        exposure([1.0, np.nan], good)
    with pytest.raises(InputError, match="reference_scores must be one number for each text"):
        exposure([1.0], [])
    with pytest.raises(InputError, match=r"secret_scores must be one .* got shape \(1, 2\)"):
        exposure([[1.0, 2.0]], good)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(InputError, match="at least 10 texts to fit a distribution, got 3"):
        exposure_by_extrapolation([1.0], [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="reference_scores must differ, got 2 for all"):
        exposure_by_extrapolation([1.0], np.full(20, 2.0))
    with pytest.raises(InputError, match="secret_scores must be finite, got infinity"):
        exposure_by_extrapolation([np.inf], np.arange(20.0))
    with pytest.raises(InputError, match="sequences must hold one at least"):
        log_perplexity(lambda p, t: jnp.sum(p * t), 1.0, np.zeros((0, 3)))
    with pytest.raises(InputError, match="loss of sequences must not be NaN"):
        log_perplexity(lambda p, t: jnp.log(-jnp.sum(p * t)), 1.0, np.ones((2, 3)))
