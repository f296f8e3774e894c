"""A mechanism with each sampler: what is accounted is how batches are drawn."""

import dp_accounting as dpa
import pytest
from scipy import stats

import hushgrad as hg
from hushgrad import accounting
from hushgrad.errors import InputError
from hushgrad.sampling import Poisson

CUT = int(stats.binom.isf(1e-9, 1000, 0.05))
SAMPLED = {
    hg.sampling.Poisson: ("add-or-remove-one", accounting.poisson_gaussian(0.05, 2.0, 21)),
    hg.sampling.FixedSize: (
        "replace-one",
        dpa.SelfComposedDpEvent(
            dpa.SampledWithoutReplacementDpEvent(1000, 50, dpa.GaussianDpEvent(2.0)), 21
        ),
    ),
    # 21 steps of 20 to a pass: two passes, the second only begun.
    hg.sampling.Shuffle: ("replace-special", accounting.poisson_gaussian(1.0, 2.0, 2)),
    hg.sampling.InOrder: ("replace-special", accounting.poisson_gaussian(1.0, 2.0, 2)),
    hg.sampling.BallsInBins: ("add-or-remove-one", accounting.poisson_gaussian(1.0, 2.0, 2)),
    # One in 1e9 batches of 50 on average is larger.
    hg.sampling.TruncatedPoisson: (
        "add-or-remove-one",
        dpa.SelfComposedDpEvent(dpa.TruncatedSubsampledGaussianDpEvent(1000, 0.05, CUT, 2.0), 21),
    ),
    hg.sampling.Stream: ("replace-special", accounting.poisson_gaussian(1.0, 2.0, 21)),
    # Without rules of its own, anybody in every batch.
    hg.sampling.CheckIn: ("replace-special", accounting.poisson_gaussian(1.0, 2.0, 21)),
    # A cycle of two: eleven of the 21 steps may draw an example, each with twice the rate.
    hg.sampling.CyclicPoisson: ("replace-special", accounting.poisson_gaussian(0.1, 2.0, 11)),
}


@pytest.mark.parametrize("sampling", hg.sampling.SAMPLERS)
def test_what_is_accounted_is_how_batches_are_drawn(sampling):
    relation, event = SAMPLED[sampling]
    settings = {"examples": 1000, "batch_size": 50, "steps": 21, "delta": 1e-5}
    m = hg.dp_sgd(**settings, noise_multiplier=2.0, sampling=sampling)
    assert (m.neighbouring_relation, m.event) == (relation, event)
    assert m.sampling == sampling.of(1000, 50)
    assert m.epsilon() == accounting.epsilon(event, 1e-5, relation=relation)
    assert m.to_dict()["sampling"]["kind"] == sampling.kind
    # From epsilon to noise and back, under the sampler's own relation.
    found = hg.dp_sgd(**settings, epsilon=3.0, sampling=sampling)
    assert 2.997 <= found.epsilon() <= 3.0


def test_a_sampler_of_ones_own():
    settings = {"examples": 1000, "batch_size": 50, "steps": 21, "delta": 1e-5}
    cut = hg.sampling.TruncatedPoisson(0.05, 60)
    m = hg.dp_sgd(**settings, noise_multiplier=2.0, sampling=cut)
    assert m.sampling == cut
    # Often full, so dearer than coins alone, and far from what two clips would cost always.
    coins = hg.dp_sgd(**settings, noise_multiplier=2.0)
    twice = hg.dp_sgd(**settings, noise_multiplier=1.0)
    assert 1.001 * coins.epsilon() < m.epsilon() < 0.9 * twice.epsilon()
    m = hg.dp_sgd(
        **settings, noise_multiplier=2.0, sampling=hg.sampling.CyclicPoisson.of(1000, 50, 4)
    )
    assert m.event == accounting.poisson_gaussian(0.2, 2.0, 6)
    with pytest.raises(InputError, match=r"batch_size must be what Poisson.*draws.*100, got 50"):
        hg.dp_sgd(**settings, noise_multiplier=2.0, sampling=Poisson(0.1))


@pytest.mark.parametrize("sampling", [None, "poisson", int, 0.1])
def test_samplings_that_are_none(sampling):
    with pytest.raises(InputError, match="sampling must be a sampler"):
        hg.dp_sgd(
            examples=100,
            batch_size=10,
            steps=1,
            delta=1e-3,
            noise_multiplier=1.0,
            sampling=sampling,
        )
