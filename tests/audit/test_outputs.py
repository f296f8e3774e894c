"""What a model says of examples: statistics, validation, and where it comes from."""

import os

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from hushgrad.audit.outputs import Outputs
from hushgrad.errors import InputError

os.environ.setdefault("KERAS_BACKEND", "jax")
LOGITS, LABELS = np.array([[1.0, 2, -3], [-1, 1, 0]]), np.array([1, 2])
NAMES = ("loss", "confidence", "entropy", "modified_entropy", "logit_margin", "hinge", "correct")


def test_statistics_are_those_of_tensorflow_privacy():
    found = Outputs(logits=LOGITS, labels=LABELS)
    np.testing.assert_allclose(found.confidence, [0.72747516, 0.24472847], atol=1e-7)
    np.testing.assert_allclose(found.loss, [0.31817543, 1.40760596], atol=1e-7)
    np.testing.assert_allclose(found.logit_margin, [0.98185009, -1.12692802], atol=1e-7)
    np.testing.assert_allclose(found.hinge, [1, -1], atol=1e-7)
    assert found.correct.tolist() == [True, False]


def test_modified_entropy_is_that_of_the_paper():
    p = special.softmax(LOGITS, axis=1)
    found = Outputs(probabilities=p, labels=LABELS)
    expected = []
    for row, label in zip(p, LABELS, strict=True):
        others = np.delete(row, label)
        own = -(1 - row[label]) * np.log(row[label])
        expected.append(own - np.sum(others * np.log(1 - others)))
    np.testing.assert_allclose(found.modified_entropy, expected)
    np.testing.assert_allclose(found.entropy, -np.sum(p * np.log(p), axis=1))


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_probabilities_say_the_same(name):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
    from_logits = Outputs(logits=logits, labels=labels)
    from_p = Outputs(probabilities=special.softmax(logits, axis=1), labels=labels)
    np.testing.assert_allclose(getattr(from_logits, name), getattr(from_p, name), atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_one_logit_is_two_classes(name):
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=20), rng.integers(0, 2, 20)
    one = Outputs(logits=logits[:, None], labels=labels[:, None])
    two = Outputs(logits=np.stack([0 * logits, logits], axis=1), labels=labels)
    np.testing.assert_allclose(getattr(one, name), getattr(two, name), atol=1e-12)
    p = Outputs(probabilities=special.expit(logits), labels=labels)
    np.testing.assert_allclose(getattr(one, name), getattr(p, name), atol=1e-9)


def test_multi_label_is_many_questions():
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=(20, 3)), rng.integers(0, 2, (20, 3))
    many = Outputs(logits=logits, labels=labels)
    assert many.multi_label
    each = [Outputs(logits=logits[:, k], labels=labels[:, k]) for k in range(3)]
    for name, over in [("loss", np.sum), ("entropy", np.sum), ("modified_entropy", np.sum)]:
        expected = over([getattr(one, name) for one in each], axis=0)
        np.testing.assert_allclose(getattr(many, name), expected)
    np.testing.assert_allclose(many.confidence, np.prod([one.confidence for one in each], axis=0))
    np.testing.assert_allclose(many.hinge, np.min([one.hinge for one in each], axis=0))
    np.testing.assert_allclose(many.logit_margin, special.logit(many.confidence), rtol=1e-9)
    assert many.correct.tolist() == np.all([one.correct for one in each], axis=0).tolist()
    # A part of it may happen to be one-hot.
    one_hot = labels.sum(axis=1) == 1
    assert many.take(one_hot).multi_label


def test_confident_predictions_stay_apart():
    # In float32 all three probabilities are 1.
    found = Outputs(logits=np.float32([[40, 0], [60, 0], [80, 0]]), labels=[0, 0, 0])
    assert np.all(np.diff(found.logit_margin) > 19)
    assert np.all(np.diff(found.loss) < 0)
    assert np.all(np.diff(found.modified_entropy) < 0)
    wrong = Outputs(logits=np.float32([[40, 0], [60, 0], [800, 0]]), labels=[1, 1, 1])
    assert np.all(np.diff(wrong.modified_entropy) > 10)


def test_certain_probabilities_are_finite():
    found = Outputs(probabilities=[[1.0, 0.0], [0.0, 1.0]], labels=[0, 0])
    for name in NAMES:
        assert np.isfinite(getattr(found, name)).all(), name
    sure = Outputs(probabilities=[[1.0, 0.0], [1.0, 1.0]], labels=[[1, 0], [1, 1]])
    for name in NAMES:
        assert np.isfinite(getattr(sure, name)).all(), name


def test_inputs_are_copied_and_left_alone():
    arrays = {"logits": LOGITS.copy(), "labels": LABELS.copy(), "losses": np.ones(2)}
    kept = {name: array.copy() for name, array in arrays.items()}
    for array in arrays.values():
        array.setflags(write=False)
    found = Outputs(**arrays)
    for name in NAMES:
        getattr(found, name)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, kept[name])
        assert not np.shares_memory(array, getattr(found, name))
        with pytest.raises(ValueError, match="read-only"):
            getattr(found, name)[0] = 0
    assert len(found) == 2
    assert len(found.take(np.array([True, False]))) == 1


def test_jax_arrays_of_low_precision():
    found = Outputs(logits=jnp.asarray(LOGITS, jnp.bfloat16), labels=jnp.asarray(LABELS))
    np.testing.assert_allclose(found.loss, [0.31817543, 1.40760596], atol=1e-6)


BAD = [
    ({}, "at least one of losses, logits"),
    ({"losses": [1.0], "labels": [1, 2]}, "of the same examples, got 1 losses, 2 labels"),
    ({"losses": [1.0, np.nan]}, "losses must be finite, .* in 1 of 2 rows, first in row 1"),
    ({"logits": [[1.0, np.inf]]}, "logits must be finite"),
    ({"losses": []}, "losses must be of one example at least"),
    ({"losses": [[1.0]]}, "losses must have one axis"),
    ({"logits": np.ones((1, 1, 1))}, "logits must have one or two axes"),
    ({"losses": ["a"]}, "losses must be an array of numbers"),
    ({"probabilities": [[0.5, 1.5]]}, r"must lie in \[0, 1\], got 1.5; pass unnormalised"),
    ({"probabilities": [[0.5, 0.5], [0.5, 0.4]]}, "must sum to 1 in each row, got 0.9 in row 1"),
    ({"logits": [[1.0, 2.0]], "labels": [2]}, "labels must be below 2, .* got 2 in row 0"),
    ({"logits": [1.0], "labels": [2]}, "labels must be below 2"),
    ({"losses": [1.0], "labels": [-1]}, "labels must be class numbers 0, 1, 2, ..., got -1"),
    ({"losses": [1.0], "labels": [0.5]}, "labels must be class numbers"),
    ({"logits": [[1.0, 2.0]], "labels": [[0, 1]]}, "exactly one 1 in each row"),
    ({"logits": [[1.0, 2.0]], "labels": [[0, 2]]}, "zeros and ones, got 2"),
    (
        {"logits": [[1.0, 2.0]], "labels": [[1, 1, 0]]},
        r"shape \(1, 3\) of the labels, got \(1, 2\)",
    ),
    ({"losses": [1.0], "labels": [1], "multi_label": True}, "multi_label=True needs labels"),
    ({"losses": [1.0], "labels": [[1, 1]], "multi_label": False}, "multi_label=False needs"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_errors_name_the_mend(arguments, message):
    with pytest.raises(InputError, match=message):
        Outputs(**arguments)


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_told_is_said(name):
    with pytest.raises(InputError, match=f"{name} needs l"):
        _ = getattr(Outputs(features=[1.0]), name)


def test_of_loss_is_the_loss_of_each():
    x, y = np.arange(10.0), np.ones(10)
    found = Outputs.of_loss(lambda p, x, y: (p * x - y) ** 2, 2.0, (x, y), labels=y, block=4)
    np.testing.assert_allclose(found.loss, (2 * x - y) ** 2)
    with pytest.raises(InputError, match="data must be arrays of one length"):
        Outputs.of_loss(lambda p, x, y: x, 2.0, (x, y[:3]))


def test_of_keras_tells_logits_from_probabilities():
    import keras

    import hushgrad as hg

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(70, 4)).astype("float32"), rng.integers(0, 3, 70)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    soft = keras.Sequential([model, keras.layers.Softmax()])
    said = Outputs.of_keras(model, x, y, batch_size=32)
    np.testing.assert_allclose(said.logits, model(x), rtol=1e-5, atol=1e-5)
    of_soft = Outputs.of_keras(soft, x, np.eye(3)[y], batch_size=32)
    assert of_soft.logits is None
    np.testing.assert_allclose(said.loss, of_soft.loss, rtol=1e-4)
    private = hg.keras.privatize(model, clip=1.0, noise_multiplier=1.0, delta=1e-3)
    again = Outputs.of_keras(private, x, y, batch_size=32)
    np.testing.assert_allclose(again.loss, said.loss, rtol=1e-4)
