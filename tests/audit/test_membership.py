"""Membership inference: leaks are found, sound models are not accused, results can be read."""

import json
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.tree import DecisionTreeClassifier

from hushgrad.audit.attackers import ATTACKS
from hushgrad.audit.membership import membership
from hushgrad.audit.outputs import Outputs
from hushgrad.audit.slices import Slices
from hushgrad.errors import InputError


def overfitted(count=100):
    """A tree that learned random labels by heart."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2 * count, 5)), rng.integers(0, 3, 2 * count)
    tree = DecisionTreeClassifier(random_state=0).fit(x[:count], y[:count])
    sides = slice(0, count), slice(count, None)
    return [Outputs(probabilities=tree.predict_proba(x[s]), labels=y[s]) for s in sides]


def drawn(count, shift=0.0, seed=0, classes=3):
    """Logits of one population; `shift` is what members' labels gain."""
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(count, classes)), rng.integers(0, classes, count)
    logits[np.arange(count), labels] += 1 + shift
    return Outputs(logits=logits, labels=labels)


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_finds_an_overfitted_model(attack):
    found = membership(*overfitted(), attacks=[attack])
    assert found.attacks[0].auc > 0.75
    assert found.attacks[0].roc.auc_interval(0.999)[0] > 0.6
    assert found.attacks[0].epsilon > 0
    assert found.exceeds(0.01)


@pytest.mark.parametrize("attack", ["threshold", "entropy", "logistic", "neighbours", "mlp"])
def test_no_attack_finds_what_is_not_there(attack):
    found = membership(drawn(300, seed=1), drawn(200, seed=2), attacks=[attack])
    # Five deviations of the area under independent scores, sqrt(1 / 12 (1/300 + 1/200)) = 0.026.
    assert abs(found.attacks[0].auc - 0.5) < 0.14
    assert found.epsilon == 0
    assert not found.exceeds(0.0)


def test_proof_by_trained_attacks_holds():
    # Members' and others' scores have one distribution: zero is the truth.
    trials, wrong = 6, 0
    for seed in range(trials):
        sides = drawn(60, seed=2 * seed), drawn(60, seed=2 * seed + 1)
        wrong += membership(*sides, attacks=["neighbours"], seed=seed).epsilon > 0
    assert wrong <= stats.binom.isf(1e-6, trials, 0.05)


def test_results_repeat_and_inputs_are_left_alone():
    sides = drawn(60, 1.0), drawn(50, seed=1)
    kept = [side.logits.copy() for side in sides]
    first = membership(*sides, attacks=["logistic"], seed=3)
    again = membership(*sides, attacks=["logistic"], seed=3)
    np.testing.assert_array_equal(first.attacks[0].scores.members, again.attacks[0].scores.members)
    for side, before in zip(sides, kept, strict=True):
        np.testing.assert_array_equal(side.logits, before)


def test_nobody_is_scored_by_an_attacker_that_saw_them():
    # Each member alone has a feature of its own; nearest neighbours would know it again.
    rng = np.random.default_rng(0)
    members, others = (Outputs(features=rng.normal(size=(200, 2))) for _ in range(2))
    found = membership(members, others, attacks=["neighbours"]).attacks[0]
    assert abs(found.auc - 0.5) < 0.15
    assert set(found.scores.member_folds) == {0, 1}


@pytest.mark.parametrize("balanced", [True, False])
def test_all_are_scored_whether_balanced_or_not(balanced):
    found = membership(drawn(150, 2.0), drawn(50, seed=1), attacks=["logistic"], balanced=balanced)
    attack = found.attacks[0]
    assert (len(attack.scores.members), attack.non_members) == (150, 50)
    assert np.isfinite(attack.scores.members).all()
    assert attack.auc > 0.7


def test_tensorflow_privacys_example():
    sides = [0.1, 0.2, 1.3, 0.4, 0.5, 0.6], [1.1, 1.2, 1.3, 0.4, 1.5, 1.6]
    found = membership(*(Outputs(losses=side) for side in sides))
    assert round(found.worst().auc, 2) == 0.83
    assert [attack.attack for attack in found.attacks] == ["threshold"]


def test_slices():
    members, others = drawn(300, 1.0), drawn(300, seed=1)
    sex = np.array(["f", "m"] * 150)
    rare = np.where(np.arange(300) < 5, "rare", "many")
    slices = Slices(
        by_class=True,
        by_percentile=True,
        by_correctness=True,
        columns={"sex": (sex, sex), "kind": (rare, rare)},
    )
    found = membership(members, others, attacks=["threshold"], slices=slices)
    named = {attack.slice: attack for attack in found.attacks}
    assert "kind = rare (5, 5)" in found.left_out
    for name in ("all", "class 0", "class 2", "sex = f", "loss 40-50 %", "correct", "wrong"):
        assert name in named
    assert sum(named[f"class {c}"].members for c in range(3)) == 300
    every = membership(
        members, others, attacks=["threshold"], slices=Slices(by_percentile=True, fewest=1)
    )
    percentiles = [a for a in every.attacks if a.slice.startswith("loss")]
    assert [a.members + a.non_members for a in percentiles] == [60] * 10
    assert named["correct"].members == members.correct.sum()
    # A slice the model chose proves nothing of a promise.
    assert named["correct"].bound is None
    assert named["loss 40-50 %"].bound is None
    # The more is tried, the less is proved.
    alone = membership(members, others, attacks=["threshold"])
    assert named["all"].epsilon < alone.epsilon
    rows = (np.asarray(members.labels) == 1, np.asarray(others.labels) == 1)
    one = membership(members.take(rows[0]), others.take(rows[1]), attacks=["threshold"])
    assert one.worst().auc == named["class 1"].auc


def test_worst_is_the_largest():
    found = membership(drawn(200, 1.0), drawn(200, seed=1), slices=Slices(by_class=True))
    for by in ("auc", "advantage", "epsilon"):
        assert getattr(found.worst(by), by) == max(getattr(a, by) for a in found.attacks)
    assert found.epsilon == found.worst("epsilon").epsilon
    assert found.epsilon <= found.most
    assert found.exceeds(found.epsilon * 0.99)
    assert not found.exceeds(found.epsilon)


def test_table_fits_and_names_what_matters():
    column = np.array(["a very long name of a group", "b"] * 100)
    slices = Slices(columns={"group": (column, column)}, fewest=90, by_class=True)
    text = membership(drawn(200, 1.0), drawn(200, seed=1), slices=slices).table()
    assert max(map(len, text.splitlines())) <= 80
    for word in ("threshold", "entropy", "Epsilon is at least", "Un-noised", "left out: class 0"):
        assert word in text


def test_plain_data_has_no_single_persons_unless_asked():
    found = membership(drawn(50, 1.0), drawn(50, seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert "member_scores" not in json.dumps(plain)
    assert plain["attacks"][0]["true_positives"]["0.001"]["interval"][1] <= 1
    with pytest.warns(UserWarning, match=r"50 of 50 rows \(100 %\) have a value"):
        whole = found.to_dict(per_example=True)
    assert len(whole["attacks"][0]["member_scores"]) == 50


LOSSES = Outputs(losses=np.ones(30))
BAD = [
    (([1.0], LOSSES), {}, "members must be hushgrad.audit.Outputs, got list"),
    ((LOSSES, drawn(30)), {}, "losses are given for members and not for non_members"),
    ((drawn(30), drawn(30, classes=4)), {}, r"logits must have the same columns .* \(3,\)"),
    ((LOSSES, LOSSES), {"attacks": ["lira"]}, "attacks must be some of threshold, entropy"),
    ((LOSSES, LOSSES), {"attacks": ["threshold"] * 2}, "each once"),
    ((LOSSES, LOSSES), {"attacks": []}, "attacks must be some of"),
    ((LOSSES, LOSSES), {"attacks": "entropy"}, "entropy needs logits or probabilities"),
    ((LOSSES, LOSSES), {"slices": Slices(by_class=True)}, "by_class=True needs labels"),
    ((LOSSES, LOSSES), {"slices": Slices(by_correctness=True)}, "correct needs logits"),
    ((LOSSES, LOSSES), {"confidence": 1.0}, "confidence must lie"),
    ((LOSSES, LOSSES), {"delta": -1.0}, "delta must lie"),
    ((LOSSES, LOSSES), {"slices": Slices(columns={"a": ([1], [1])})}, "30 members and 30 non-"),
    ((drawn(10), drawn(10)), {"attacks": ["logistic"]}, "20 members and 20 non-members at least"),
    (
        (drawn(30), drawn(30)),
        {"slices": Slices(entire=False, by_class=True, fewest=100)},
        "slices must hold 100 members",
    ),
]


@pytest.mark.parametrize(("sides", "arguments", "message"), BAD)
def test_errors_name_the_mend(sides, arguments, message):
    with pytest.raises(InputError, match=message):
        membership(*sides, **arguments)


def test_one_class_only_is_no_split():
    side = Outputs(losses=np.ones(30), labels=np.full(30, 2))
    with pytest.raises(InputError, match="two classes at least, all examples are of class 2"):
        membership(side, side, slices=Slices(by_class=True))
    many = Outputs(losses=np.ones(30), labels=np.ones((30, 2)))
    with pytest.raises(InputError, match="got multi-label ones"):
        membership(many, many, slices=Slices(by_class=True))
    with pytest.raises(InputError, match="at least one kind"):
        Slices(entire=False)
    with pytest.raises(InputError, match="by must be one of auc"):
        membership(LOSSES, LOSSES).worst("loss")
    with pytest.raises(InputError, match="promised_epsilon must be"):
        membership(LOSSES, LOSSES).exceeds(float("nan"))
