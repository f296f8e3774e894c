"""The robust membership attack, against its definition pair by pair."""

import numpy as np
import pytest

from hushgrad.audit.rmia import rmia_leave_one_out, rmia_offline, rmia_online
from hushgrad.audit.roc import Roc
from hushgrad.errors import InputError


def halves(shadows, examples, seed=0):
    """Pairs of a random half and what it lacks."""
    rng = np.random.default_rng(seed)
    first = rng.permuted(np.tile(np.arange(examples) < examples // 2, (shadows // 2, 1)), axis=1)
    return np.stack([first, ~first], axis=1).reshape(shadows, examples)


def log_probabilities(shadows=8, examples=40, *, leak, seed=0):
    """Log-probabilities of labels, higher by `leak` in the logit where the example was in."""
    members = halves(shadows, examples, seed)
    rng = np.random.default_rng(seed + 1)
    logits = rng.normal(size=examples) * 2 + rng.normal(size=members.shape) + leak * members
    return -np.logaddexp(0, -logits), members


def by_pairs(target, general, gamma, population):
    """Zarifzadeh et al. 2024, algorithm 1, as it is written."""
    ratios = np.exp(target) / general
    scores = []
    for place, ratio in enumerate(ratios):
        others = [z for z in np.flatnonzero(population) if z != place]
        scores.append(np.mean([ratio / ratios[z] >= gamma for z in others]))
    return np.array(scores)


@pytest.mark.parametrize("gamma", [1.0, 1.3, 2.0])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_scores_are_shares_of_pairs(gamma, share):
    log_p, members = log_probabilities(leak=1.0)
    population = np.random.default_rng(0).random(log_p.shape[1]) < share
    target, log_p, members = log_p[0], log_p[2:], members[2:]
    p = np.exp(log_p)
    into = np.array([c[m].mean() for c, m in zip(p.T, members.T, strict=True)])
    out = np.array([c[~m].mean() for c, m in zip(p.T, members.T, strict=True)])
    how = {"gamma": gamma, "population": population}
    np.testing.assert_allclose(
        rmia_online(target, log_p, members, **how),
        by_pairs(target, (into + out) / 2, gamma, population),
        atol=1e-12,
    )
    np.testing.assert_allclose(
        rmia_offline(target, log_p, members, a=0.4, **how),
        by_pairs(target, (1.4 * out + 0.6) / 2, gamma, population),
        atol=1e-12,
    )


@pytest.mark.parametrize("attack", ["online", "offline"])
def test_leaving_one_out_is_attacking_it_with_the_others(attack):
    log_p, members = log_probabilities(leak=1.0)
    log_p[:, 5] -= 500  # whose digits a difference of sums would lose
    log_p[0, 5] += 499
    found = rmia_leave_one_out(log_p, members, attack=attack)
    one = rmia_online if attack == "online" else rmia_offline
    for target in range(len(log_p)):
        rest = np.setdiff1d(np.arange(len(log_p)), [target, target ^ 1])
        expected = one(log_p[target], log_p[rest], members[rest])
        np.testing.assert_allclose(found[target], expected, atol=1e-12)


def test_examples_that_no_shadow_had_are_scored_as_offline():
    log_p, members = log_probabilities(leak=1.0)
    members[:, 4] = False
    members[0, 7], members[1:, 7] = True, False
    target = log_p[0]
    found = rmia_online(target, log_p, members)
    p = np.exp(log_p)
    out = p[:, 4].mean()
    general = ((1 + 0.3) * out + 0.7) / 2
    ratio = np.exp(target[4]) / general
    into = np.array([c[m].mean() if m.any() else 0 for c, m in zip(p.T, members.T, strict=True)])
    others = np.array([c[~m].mean() for c, m in zip(p.T, members.T, strict=True)])
    ratios = np.exp(target) / ((into + others) / 2)
    ratios[4] = ratio
    assert found[4] == pytest.approx(np.mean(np.delete(ratios, 4) * 2 <= ratio))
    # Also where the only one that had it is the target.
    assert np.isfinite(rmia_leave_one_out(log_p, members)[0]).all()


@pytest.mark.parametrize("attack", ["online", "offline"])
def test_members_are_found_and_nothing_where_there_is_nothing(attack):
    """As in `test_lira`: Mann and Whitney's variance, 5.7 standard deviations, eight targets."""
    log_p, members = log_probabilities(examples=2000, leak=4.0)
    scores = rmia_leave_one_out(log_p, members, attack=attack)
    assert Roc.of(scores[members], scores[~members]).auc > 0.85
    log_p, members = log_probabilities(examples=2000, leak=0.0, seed=4)
    scores = rmia_leave_one_out(log_p, members, attack=attack)
    n = members.shape[1]
    found = [Roc.of(own[bits], own[~bits]).auc for own, bits in zip(scores, members, strict=True)]
    assert np.max(np.abs(np.array(found) - 0.5)) < 5.7 * np.sqrt((n + 1) / (3 * n * n))


def test_order_does_not_matter_and_arrays_are_only_read():
    log_p, members = log_probabilities(leak=1.0)
    log_p.setflags(write=False)
    members.setflags(write=False)
    found = rmia_leave_one_out(log_p, members)
    order = np.random.default_rng(0).permutation(len(log_p))
    np.testing.assert_allclose(
        rmia_leave_one_out(log_p[order], members[order]), found[order], atol=1e-12
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": 0.5}, "gamma must be one or more, got 0.5"),
        ({"a": 1.5}, r"a must lie in \[0, 1\], got 1.5"),
        ({"target": np.zeros(3)}, "target must have the shape of each shadow's statistics"),
        ({"target": np.ones(40)}, "target must be log-probabilities, .* got 1.0"),
        ({"statistics": np.ones((8, 40))}, "statistics must be log-probabilities, .* got 1.0"),
        ({"members": np.ones((8, 40), bool)}, "members must leave each example out .* example 0"),
        ({"population": np.ones(3, bool)}, r"population must be boolean of shape \(40,\)"),
        ({"population": np.zeros(40, bool)}, "population must be of two examples at least"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    log_p, members = log_probabilities(leak=1.0)
    given = {"target": log_p[0], "statistics": log_p, "members": members, **changes}
    with pytest.raises(InputError, match=message):
        rmia_offline(**given)


def test_an_unknown_attack_is_refused():
    log_p, members = log_probabilities(leak=1.0)
    with pytest.raises(InputError, match="attack must be 'online' or 'offline', got 'both'"):
        rmia_leave_one_out(log_p, members, attack="both")
