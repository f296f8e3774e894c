"""The likelihood ratio attack: TensorFlow Privacy's numbers, and what it finds."""

import jax
import numpy as np
import pytest

from hushgrad.audit.lira import (
    label_logit,
    lira_leave_one_out,
    lira_offline,
    lira_online,
    log_density,
    logit_of_loss,
    offset_score,
    partners,
)
from hushgrad.audit.roc import Roc
from hushgrad.errors import InputError

IN = [np.array([[-1], [1.0]]), np.array([[0], [2.0]]), np.array([[0], [20.0]]), np.empty((0, 1))]
OUT = [-values for values in IN]
TARGET = np.array([[1.0], [0.0], [0.0], [0.0]])


def halves(shadows, examples, seed=0):
    """Pairs of a random half and what it lacks."""
    rng = np.random.default_rng(seed)
    first = rng.permuted(np.tile(np.arange(examples) < examples // 2, (shadows // 2, 1)), axis=1)
    return np.stack([first, ~first], axis=1).reshape(shadows, examples)


def normals(shadows=16, examples=2000, *, leak, seed=0):
    """Statistics that are `leak` higher where the example was in."""
    members = halves(shadows, examples, seed)
    rng = np.random.default_rng(seed + 1)
    hardness, width = rng.normal(size=examples) * 3, rng.uniform(0.5, 2, examples)
    noise = rng.normal(size=members.shape)
    return hardness + width * noise + leak * members, members


@pytest.mark.parametrize("centre", ["median", "mean"])
@pytest.mark.parametrize(
    ("fixed", "expected"),
    [
        (False, [1.41893853, 1.41893853, 3.72152363, 2.72537178]),
        (True, [2.69682468, 2.69682468, 4.15270703, 2.87983121]),
    ],
)
def test_scores_are_tensorflow_privacys(centre, fixed, expected):
    """Those of advanced_mia_test.py, to all their digits; the signs are ours."""
    how = {"centre": centre, "fixed_variance": fixed}
    inside, outside = (log_density(TARGET, side, **how) for side in (IN, OUT))
    np.testing.assert_allclose(-inside, expected, atol=5e-9)
    np.testing.assert_allclose(outside, -np.array(expected), atol=5e-9)
    np.testing.assert_allclose(inside - outside, 0, atol=5e-9)


def test_scores_of_copies_are_averaged_as_tensorflow_privacy_does():
    inside = [np.array([[-1, 0], [1.0, 20]])]
    np.testing.assert_allclose(log_density([[1.0, 0.0]], inside), [-2.57023108], atol=5e-9)


@pytest.mark.parametrize(
    ("sides", "centre", "expected"),
    [
        ("in out", "mean", [-5, 4, -5]),
        ("in out", "median", [-5, 4, -5]),
        ("in", "median", [0, 9, 0]),
        ("out", "median", [-10, -1, -10]),
        ("in", "mean", [0, 28 / 3, 1 / 6]),
        ("out", "mean", [-10, -4 / 3, -61 / 6]),
    ],
)
def test_offsets_are_tensorflow_privacys(sides, centre, expected):
    target = np.array([[-0.1, 0.1, 0], [0, 0, 27], [0, 0, 0]])
    three = np.array([[-2.0, 4, 6], [0, 0, 0], [5, -7, -9]])
    inside = [np.array([[1, 2, -3.0]]), three, np.empty((0, 3))]
    both = {"in": inside, "out": [10 - values for values in inside]}
    found = offset_score(target, *(both[side] for side in sides.split()), centre=centre)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("centre", ["median", "mean"])
def test_online_is_the_difference_of_two_densities(centre, fixed):
    statistics, members = normals(shadows=6, examples=20, leak=1.0)
    members[:, 3] = True  # nobody is out
    target, how = statistics[0], {"centre": centre, "fixed_variance": fixed}
    sides = [
        [column[bits == wanted] for column, bits in zip(statistics.T, members.T, strict=True)]
        for wanted in (True, False)
    ]
    found = lira_online(target, statistics, members, **how)
    inside, outside = (log_density(target, side, **how) for side in sides)
    np.testing.assert_allclose(found, inside - outside, rtol=1e-10)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("centre", ["median", "mean"])
@pytest.mark.parametrize("paired", [True, False])
def test_leaving_one_out_is_attacking_it_with_the_others(paired, centre, fixed):
    """Also without whoever had exactly what the target lacks, if there is one."""
    rng = np.random.default_rng(5)
    members = halves(8, 50) if paired else rng.random((9, 50)) < 0.5
    statistics = rng.normal(size=(*members.shape, 2))
    how = {"centre": centre, "fixed_variance": fixed}
    online = lira_leave_one_out(statistics, members, **how)
    offline = lira_leave_one_out(statistics, members, attack="offline", **how)
    for target in range(len(members)):
        gone = [target, target ^ 1] if paired else [target]
        rest = np.setdiff1d(np.arange(len(members)), gone)
        given = statistics[target], statistics[rest], members[rest]
        np.testing.assert_allclose(online[target], lira_online(*given, **how), rtol=1e-9)
        np.testing.assert_allclose(offline[target], lira_offline(*given, **how), rtol=1e-9)


@pytest.mark.parametrize("attack", ["online", "offline"])
def test_members_are_found(attack):
    """Two normals 3 apart, of standard deviations in [0.5, 2]: AUC of about 0.96."""
    statistics, members = normals(shadows=32, leak=3.0)
    scores = lira_leave_one_out(statistics, members, attack=attack)
    assert Roc.of(scores[members], scores[~members]).auc > 0.9
    # No threshold on the statistic itself gets there: examples differ in hardness.
    assert Roc.of(statistics[members], statistics[~members]).auc < 0.85


@pytest.mark.parametrize("attack", ["online", "offline"])
@pytest.mark.parametrize("fixed", [False, True])
def test_nothing_is_found_where_there_is_nothing(attack, fixed):
    """A target's members are a random half of the pool, whatever its scores are.

    So its AUC is Mann and Whitney's: of variance (n + 1) / (3 n n) for n examples. 5.7 standard
    deviations for each of eight targets: fewer than one seed in a million fails. With one less on
    the target's own side instead of a pair, the online attack's are 0.40 to 0.45.
    """
    statistics, members = normals(shadows=8, leak=0.0, seed=3)
    scores = lira_leave_one_out(statistics, members, attack=attack, fixed_variance=fixed)
    n = members.shape[1]
    found = [Roc.of(own[bits], own[~bits]).auc for own, bits in zip(scores, members, strict=True)]
    assert np.max(np.abs(np.array(found) - 0.5)) < 5.7 * np.sqrt((n + 1) / (3 * n * n))


def test_the_order_of_shadows_does_not_matter():
    statistics, members = normals(examples=40, leak=1.0)
    order = np.random.default_rng(0).permutation(len(members))
    found = lira_leave_one_out(statistics, members)
    np.testing.assert_allclose(
        lira_leave_one_out(statistics[order], members[order]), found[order], rtol=1e-9
    )
    target = statistics[0]
    np.testing.assert_allclose(
        lira_online(target, statistics[order], members[order]),
        lira_online(target, statistics, members),
        rtol=1e-9,
    )
    assert np.array_equal(partners(members), np.arange(len(members)) ^ 1)
    assert np.all(partners(members[::2]) == -1)


def test_statistics_without_spread_get_that_of_others():
    """As where float32 rounds every shadow's confidence to the same number."""
    statistics, members = normals(examples=40, leak=1.0)
    statistics[:, 7] = 16.0
    statistics[4, 7] = 3.0  # left out in its turn
    scores = lira_leave_one_out(statistics, members)
    assert np.all(np.isfinite(scores))
    assert np.abs(scores[:4, 7]).max() < 1e3


def test_arrays_are_only_read():
    statistics, members = normals(shadows=6, examples=20, leak=1.0)
    target = statistics[0].copy()
    for array in (statistics, members, target):
        array.setflags(write=False)
    before = statistics.copy()
    lira_online(target, statistics, members)
    lira_offline(target, statistics, members)
    lira_leave_one_out(statistics, members)
    logit_of_loss(np.abs(statistics))
    assert np.array_equal(statistics, before)


def test_logits_keep_their_digits():
    logits, labels = np.array([[1, 2, -3.0], [-1, 1, 0]], np.float32), np.array([1, 2])
    found = np.asarray(label_logit(logits, labels))
    np.testing.assert_allclose(found, [0.98185009, -1.12692802], rtol=1e-6)  # TF Privacy's
    sure = np.float32([40.0, 0.0, -3.0])
    assert float(jax.jit(label_logit)(sure, 0)) == pytest.approx(40 - np.log1p(np.exp(-3)))
    losses = np.array([1e-14, 1e-8, 0.5, 30.0, 800.0])
    expected = [-np.log(1e-14), -np.log(1e-8), -0.5 - np.log(1 - np.exp(-0.5)), -30.0, -800.0]
    np.testing.assert_allclose(logit_of_loss(losses), expected, rtol=1e-9)
    # What float32 rounds to nothing is half its last digit.
    assert logit_of_loss(np.float32([0.0])) == pytest.approx(25 * np.log(2), rel=1e-6)
    assert np.isfinite(logit_of_loss([0, 1])).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"centre": "mode"}, "centre must be 'median' or 'mean', got 'mode'"),
        ({"target": np.zeros(3)}, "target must have the shape of each shadow's statistics"),
        ({"target": np.zeros(0)}, "target must be .* and not empty"),
        ({"target": np.full(20, np.nan)}, r"target must be finite, got nan at \(0,\)"),
        ({"statistics": np.zeros(20)}, r"statistics must be .* got shape \(20,\)"),
        ({"statistics": np.full((6, 20), np.inf)}, r"statistics must be finite, got inf at \(0, 0"),
        ({"members": np.ones((6, 20))}, "members must be boolean .* got float64"),
        ({"members": np.ones((6, 20), bool)}, "members must be such that shadows are on either"),
        ({"statistics": np.ones((6, 20))}, "members must be such that shadows have different"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    statistics, members = normals(shadows=6, examples=20, leak=1.0)
    given = {"target": statistics[0], "statistics": statistics, "members": members, **changes}
    with pytest.raises(InputError, match=message):
        lira_online(**given)


def test_other_bad_arguments_are_refused():
    statistics, members = normals(shadows=6, examples=20, leak=1.0)
    with pytest.raises(InputError, match="attack must be 'online' or 'offline', got 'both'"):
        lira_leave_one_out(statistics, members, attack="both")
    with pytest.raises(InputError, match="at least 4 shadows to leave one out, got 2"):
        lira_leave_one_out(statistics[:2], members[:2])
    with pytest.raises(InputError, match=r"losses must be cross entropies .* got -0.5"):
        logit_of_loss([1.0, -0.5])
    with pytest.raises(InputError, match="shadows must be one array for each of 4 examples, got 3"):
        log_density(TARGET, IN[:3])
    with pytest.raises(InputError, match=r"shadows\[0\] must be \[shadows, 1\] as target"):
        log_density(TARGET, [np.zeros((2, 2)), *IN[1:]])
    with pytest.raises(InputError, match="sides must be shadows inside, outside or both"):
        offset_score(TARGET)
