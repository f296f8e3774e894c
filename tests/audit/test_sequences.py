"""Models of sequences: examples of different lengths, known by the ranks of their tokens."""

import numpy as np
import pytest
from scipy import special
from scipy.stats import rankdata

from hushgrad.audit.membership import membership
from hushgrad.audit.sequences import of_sequences, token_ranks
from hushgrad.errors import InputError


def said(rng, count, gain):
    """Of sequences of 1 to 6 tokens of a vocabulary of 20."""
    for _ in range(count):
        length = rng.integers(1, 7)
        logits, labels = rng.normal(size=(length, 20)), rng.integers(0, 20, length)
        logits[np.arange(length), labels] += gain
        yield logits, labels


def test_ranks_are_those_of_tensorflow_privacy():
    # From seq2seq_mia_test.py; ranks as there, by scipy.
    logits = np.float32([[0.1, 0.1, 0.8], [0.7, 0.3, 0], [0.4, 0.5, 0.1], [0.3, 0.3, 0.4]])
    labels = np.array([2, 0, 2, 1])
    expected = [
        rankdata(-row, method="min")[label] - 1 for row, label in zip(logits, labels, strict=True)
    ]
    assert token_ranks(logits, labels).tolist() == expected == [0, 0, 2, 1]


def test_an_example_is_a_sequence_or_all_of_one_person():
    rng = np.random.default_rng(0)
    pairs = list(said(rng, 5, 1.0))
    logits, labels = zip(*pairs, strict=True)
    single = of_sequences(iter(logits), iter(labels))
    assert (len(single), single.features.shape) == (5, (5, 2))
    log_p = special.log_softmax(logits[0], axis=1)[np.arange(len(labels[0])), labels[0]]
    np.testing.assert_allclose(single.loss[0], -log_p.mean())
    np.testing.assert_allclose(single.features[0][0], token_ranks(logits[0], labels[0]).mean())
    person = of_sequences([list(logits)], [list(labels)])
    every = np.concatenate([token_ranks(*pair) for pair in pairs])
    np.testing.assert_allclose(person.features, [[every.mean(), np.mean(every == 0)]])


def test_memorised_sequences_are_found():
    rng = np.random.default_rng(1)
    sides = [of_sequences(*zip(*said(rng, 100, gain), strict=True)) for gain in (4.0, 1.0)]
    found = membership(*sides, attacks=["threshold", "logistic"])
    assert min(attack.auc for attack in found.attacks) > 0.85
    assert found.epsilon > 0.5


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([], [], "one example at least"),
        ([np.ones((2, 3))], [], "as many examples as logits, got only 0"),
        ([np.ones((2, 3))], [[0, 1], [0]], "got more than 1"),
        ([np.ones((2, 3))], [[0]], r"example 0 must be \[tokens, vocabulary\] for its 1 labels"),
        ([np.ones((1, 3))], [[3]], r"example 0 must be tokens in \[0, 3\), got 3 to 3"),
        ([np.ones((1, 3)), np.full((1, 3), np.nan)], [[0], [0]], "example 1 must be finite"),
        ([[np.ones((1, 3))] * 2], [[[0]]], "must be 2 sequences as its logits, got 1"),
        ([np.ones((0, 3))], [[]], "at least one token"),
    ],
)
def test_errors_name_the_example(logits, labels, message):
    with pytest.raises(InputError, match=message):
        of_sequences(logits, labels)
