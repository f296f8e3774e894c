"""The mechanism: what is accounted is what ran, and nothing is guessed."""

import dataclasses
import json
import math
import warnings
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import hushgrad as hg
from hushgrad import accounting, clip
from hushgrad.errors import InputError
from hushgrad.sampling import Poisson

PLAIN = {
    "examples": 1000,
    "batch_size": 10,
    "steps": 50,
    "clip": 1.0,
    "delta": 1e-5,
    "noise_multiplier": 1.1,
}


def make(**changes) -> hg.Mechanism:
    """`PLAIN` with changes; a change to None leaves the argument out."""
    arguments = {k: v for k, v in (PLAIN | changes).items() if v is not None}
    return hg.dp_sgd(**arguments)


def error_of(**changes) -> str:
    with pytest.raises(InputError) as caught:
        make(**changes)
    return str(caught.value)


def test_what_is_given_is_what_it_holds():
    m = make(clip=2.5)
    assert (m.examples, m.batch_size, m.steps, m.delta) == (1000, 10, 50, 1e-5)
    assert m.noise_multiplier == 1.1
    assert m.clip == clip.Flat(2.5)
    assert m.sampling == Poisson(0.01)
    assert m.sampling_rate == 0.01
    assert (m.unit, m.neighbouring_relation) == ("example", "add-or-remove-one")


def test_the_clip_is_one_unless_given():
    assert make(clip=None) == make(clip=1.0) == make(clip=clip.Flat(1))


def test_the_event_is_made_of_the_mechanisms_own_parts():
    m = make(steps=77)
    assert m.event == accounting.poisson_gaussian(m.sampling.rate, m.noise_multiplier, m.steps)
    assert m.event.count == 77
    assert m.event.event.sampling_probability == m.sampling_rate
    assert m.event.event.event.noise_multiplier == m.noise_multiplier


@pytest.mark.parametrize(("bound", "noise"), [(0.1, 1.1), (1.0, 2.0), (8.0, 0.7)])
def test_the_noise_is_the_multiplier_times_the_sensitivity(bound, noise):
    m = make(clip=bound, noise_multiplier=noise)
    assert m.noise_stddev == pytest.approx(bound * noise, rel=1e-12)
    key = np.arange(8, dtype=np.uint32)
    made, _ = m.noise().update(jnp.zeros(2**17), m.noise().init(None), key=key)
    # The sum of n squares over the variance is chi-square with n degrees of freedom;
    # with this key it passes, by chance it would fail once in a million.
    total = float((np.asarray(made, np.float64) ** 2).sum()) / (bound * noise) ** 2
    assert stats.chi2.ppf(5e-7, 2**17) < total < stats.chi2.isf(5e-7, 2**17)


KINDS = {
    "flat": clip.Flat(2.5),
    "per layer": clip.PerLayer({"w": 3.0, "b": 4.0}),
    "total": clip.PerLayer(total=2.5),
    "automatic": clip.Automatic(0.1),
    "adaptive": clip.Adaptive(0.4, initial_norm=0.3, count_stddev=0.7),
}


def assert_noise(transformation, stddev: float) -> None:
    made, _ = transformation.update(
        jnp.zeros(2**17), transformation.init(None), key=np.arange(8, dtype=np.uint32)
    )
    # As above: chi-square, and one key in a million would fail.
    total = float((np.asarray(made, np.float64) ** 2).sum()) / stddev**2
    assert stats.chi2.ppf(5e-7, 2**17) < total < stats.chi2.isf(5e-7, 2**17)


@pytest.mark.parametrize(
    ("kind", "sensitivity"),
    [("flat", 2.5), ("per layer", 5.0), ("total", 2.5), ("automatic", 1.0)],
)
def test_the_noise_is_for_the_sensitivity_of_any_clip(kind, sensitivity):
    m = make(clip=KINDS[kind])
    assert m.clip is KINDS[kind]
    assert m.sum_noise_multiplier == m.noise_multiplier
    assert m.noise_stddev == pytest.approx(1.1 * sensitivity, rel=1e-12)
    assert_noise(m.noise(), 1.1 * sensitivity)


def test_an_adaptive_clip_leaves_the_sum_more_noise_and_of_the_current_norm():
    m = make(clip=KINDS["adaptive"])
    split = (1.1**-2 - 1.4**-2) ** -0.5  # 1.78
    assert m.noise_multiplier == 1.1
    assert m.sum_noise_multiplier == pytest.approx(split, rel=1e-12)
    assert m.noise_stddev == pytest.approx(split * 0.3, rel=1e-12)
    assert_noise(m.noise(), split * 0.3)
    for norm in (8.0, np.float32(8), jnp.float32(8)):
        assert_noise(m.noise(norm), split * 8)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_accounted_is_the_multiplier_of_all_that_a_step_releases(kind):
    m = make(clip=KINDS[kind])
    assert m.event == make().event
    assert m.epsilon() == make().epsilon()


def test_a_norm_for_a_clip_that_does_not_move():
    with pytest.raises(InputError, match=r"norm is the current bound of clip=Adaptive.*Flat"):
        make().noise(2.0)


def test_the_counts_noise_follows_from_the_batch_size():
    m = make(clip=clip.Adaptive(), batch_size=100)
    assert m.clip == clip.Adaptive(count_stddev=5.0)
    assert make(clip=clip.Adaptive(count_stddev=3.0)).clip.count_stddev == 3.0


def test_a_count_that_costs_all_of_a_step():
    """A twentieth of 10 is 0.5, and its double below 1.1."""
    message = error_of(clip=clip.Adaptive())
    assert message.startswith("count_stddev must be above half the noise multiplier, 0.55, got 0.5")
    # Also where the noise was found for an epsilon, and in a mechanism that is remade.
    message = error_of(clip=clip.Adaptive(), noise_multiplier=None, epsilon=0.1)
    assert message.startswith("count_stddev must be above half the noise multiplier")
    m = make(clip=KINDS["adaptive"])
    with pytest.raises(InputError, match="count_stddev must be above"):
        dataclasses.replace(m, noise_multiplier=1.4)
    with pytest.raises(InputError, match="count_stddev is not known"):
        dataclasses.replace(m, clip=clip.Adaptive())


def test_epsilon_finds_the_noise_of_an_adaptive_clip():
    settings = {"noise_multiplier": None, "epsilon": 1.0, "batch_size": 100}
    m, flat = make(clip=clip.Adaptive(), **settings), make(**settings)
    assert m.noise_multiplier == flat.noise_multiplier
    assert m.epsilon() == flat.epsilon() <= 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_any_clip_in_plain_data_and_words(kind):
    m = make(clip=KINDS[kind])
    data = m.to_dict()
    assert data["clip"] == KINDS[kind].to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert f"gradients {m.clip.describe()}, Gaussian noise" in " ".join(m.statement().split())
    assert hash(m) == hash(make(clip=KINDS[kind]))
    assert all(m != make(clip=other) for name, other in KINDS.items() if name != kind)


@pytest.mark.parametrize(
    "kind", [*KINDS.values(), clip.PerLayer({"a": {"b": 0.5}, "c": 1.0})], ids=repr
)
@pytest.mark.parametrize("sampling", hg.sampling.SAMPLERS)
def test_plain_data_are_read_again(kind, sampling):
    m = make(clip=kind, sampling=sampling, unit="example")
    assert hg.Mechanism.from_dict(json.loads(json.dumps(m.to_dict()))) == m


def test_norms_that_were_given_by_position_are_not_read():
    m = make(clip=clip.PerLayer([0.5, 1.0]))
    with pytest.raises(InputError, match="norms must be given by names to be read again"):
        hg.Mechanism.from_dict(m.to_dict())


@pytest.mark.parametrize("value", [clip.Automatic, "flat", {"w": 1.0}, [clip.Flat(1.0)]])
def test_a_clip_that_is_no_rule(value):
    message = error_of(clip=value)
    assert message.startswith("clip must be a positive finite number")
    assert repr(value) in message
    assert "hushgrad.clip" in message


def test_the_cost_depends_on_the_multiplier_not_on_the_clip():
    assert make(clip=0.1).epsilon() == make(clip=10.0).epsilon()


def test_epsilon_at_other_deltas_accountants_and_steps():
    m = make()
    assert m.epsilon() == m.epsilon(1e-5) == m.epsilon(delta=1e-5, accountant="pld", steps=50)
    assert m.epsilon(delta=1e-7) > m.epsilon()
    assert m.epsilon(accountant="rdp") > m.epsilon()
    assert m.epsilon(steps=10) == make(steps=10).epsilon() < m.epsilon()
    assert m.epsilon(steps=200) == make(steps=200).epsilon() > m.epsilon()
    assert m.epsilon(steps=0) == m.epsilon(steps=0, accountant="rdp") == 0
    assert m.delta_at(m.epsilon()) == pytest.approx(1e-5, rel=1e-3)
    assert m.delta_at(0.1) > m.delta_at(2.0)


@pytest.mark.parametrize("steps", [-1, 1.5, True, "3", math.nan])
def test_the_cost_of_steps_that_are_none(steps):
    with pytest.raises(InputError, match="steps must be a whole number of at least 0") as caught:
        make().epsilon(steps=steps)
    assert repr(steps) in str(caught.value)


@pytest.mark.parametrize("delta", [0, 1, -1, math.nan, "1e-5", True])
def test_the_cost_at_deltas_that_are_none(delta):
    with pytest.raises(InputError, match="delta must lie strictly between 0 and 1") as caught:
        make().epsilon(delta)
    assert repr(delta) in str(caught.value)


def test_the_cost_by_an_unknown_accountant():
    with pytest.raises(InputError, match="accountant must be one of 'pld', 'rdp', got 'gdp'"):
        make().epsilon(accountant="gdp")
    with pytest.raises(InputError, match=r"^epsilon must be .*, got -1"):
        make().delta_at(-1)


# examples, batch_size, epochs -> steps
ROUNDING = [
    (60_000, 256, 60, 14_063),  # 14062.5
    (60_000, 150, 15, 6000),  # exactly
    (600, 60, 0.1, 1),  # in floats, 0.1 * 600 / 60 is 1.0000000000000002
    (600, 60, 0.3, 3),
    (1000, 10, 0.07, 7),  # in floats 7.000000000000001
    (1000, 999, 1, 2),
    (1000, 1000, 3, 3),
    (1000, 10, 1e-9, 1),
    (7, 3, 1, 3),
    (7, 3, Fraction(3, 7), 1),
    (600, 60, Fraction(1, 3), 4),
    (100, 10, np.float64(2.0), 20),
    (100, 10, np.int64(2), 20),
]


@pytest.mark.parametrize(("examples", "batch_size", "epochs", "steps"), ROUNDING)
def test_epochs_are_rounded_up_to_whole_steps(examples, batch_size, epochs, steps):
    m = make(examples=examples, batch_size=batch_size, epochs=epochs, steps=None)
    assert m.steps == steps
    assert type(m.steps) is int


@settings(max_examples=200)
@given(
    examples=st.integers(1, 10**6),
    share=st.floats(0, 1),
    hundredths=st.integers(1, 10_000),
)
def test_no_step_is_missing_and_none_too_many(examples, share, hundredths):
    batch_size = max(1, int(share * examples))
    m = make(
        examples=examples, batch_size=batch_size, epochs=hundredths / 100, steps=None, delta=1e-9
    )
    wanted = Fraction(hundredths, 100) * examples
    assert (m.steps - 1) * batch_size < wanted <= m.steps * batch_size


def test_numpy_numbers_and_whole_floats_are_numbers():
    m = make(
        examples=np.int64(1000),
        batch_size=np.int32(10),
        steps=50.0,
        clip=np.float32(1),
        delta=np.float64(1e-5),
        noise_multiplier=np.float64(1.1),
    )
    assert m == make()
    assert json.dumps(m.to_dict()) == json.dumps(make().to_dict())


def test_a_batch_of_everyone():
    m = make(batch_size=1000)
    assert m.sampling_rate == 1
    assert m.epsilon() > make().epsilon()


def test_integer_noise_costs_what_the_same_float_costs():
    m = make(noise_multiplier=2)
    assert m == make(noise_multiplier=2.0)
    assert type(m.noise_multiplier) is float
    assert m.epsilon() == make(noise_multiplier=2.0).epsilon() > 0


def test_epsilon_finds_the_noise():
    m = make(noise_multiplier=None, epsilon=0.5, clip=3.0)
    assert 0.999 * 0.5 <= m.epsilon() <= 0.5
    assert m.noise_stddev == pytest.approx(3 * m.noise_multiplier)
    assert m == make(noise_multiplier=m.noise_multiplier, clip=3.0)


def test_both_or_neither_of_epsilon_and_noise():
    message = "give one of epsilon and noise_multiplier, got epsilon=3.0, noise_multiplier=1.1"
    assert error_of(epsilon=3.0) == message
    message = "give one of epsilon and noise_multiplier, got epsilon=None, noise_multiplier=None"
    assert error_of(noise_multiplier=None) == message


def test_both_or_neither_of_epochs_and_steps():
    assert error_of(epochs=2) == "give one of epochs and steps, got epochs=2, steps=50"
    assert error_of(steps=None) == "give one of epochs and steps, got epochs=None, steps=None"


_OR_A_RULE = "; or a rule from hushgrad.clip, such as Flat(1.0)"
NOT_POSITIVE = [0, 0.0, -1, -0.5, math.nan, math.inf, -math.inf, True, False, "1", [1.0]]


@pytest.mark.parametrize("value", NOT_POSITIVE, ids=repr)
@pytest.mark.parametrize("name", ["clip", "noise_multiplier", "epsilon", "epochs"])
def test_what_must_be_positive(name, value):
    other = {"epsilon": "noise_multiplier", "epochs": "steps"}.get(name)
    changes = {name: value} | ({other: None} if other else {})
    message = f"{name} must be a positive finite number, got {value!r}"
    assert error_of(**changes).removesuffix(_OR_A_RULE) == message


NOT_WHOLE = [0, -3, 2.5, math.nan, math.inf, True, "10", [10], 1j]


@pytest.mark.parametrize("value", NOT_WHOLE, ids=repr)
@pytest.mark.parametrize("name", ["examples", "batch_size", "steps"])
def test_what_must_be_whole(name, value):
    message = f"{name} must be a whole number of at least 1, got {value!r}"
    assert error_of(**{name: value}) == message


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, -1e-5, 1.5, math.nan, math.inf, True, "1e-5"])
def test_delta_must_be_a_probability(value):
    assert error_of(delta=value) == f"delta must lie strictly between 0 and 1, got {value!r}"


def test_delta_has_no_default():
    with pytest.raises(TypeError, match="delta"):
        make(delta=None)


def test_a_batch_larger_than_the_data():
    message = "batch_size must be at most the number of examples, got batch_size=1001 for 1000"
    assert error_of(batch_size=1001) == f"{message} examples"


def test_an_epsilon_out_of_reach(monkeypatch):
    monkeypatch.setattr("hushgrad.accounting.calibration._LARGEST_NOISE", 2.0)
    message = error_of(noise_multiplier=None, epsilon=0.01)
    assert message.startswith("epsilon=0.01 cannot be reached with any noise multiplier up to 2")


def test_everything_is_named():
    with pytest.raises(TypeError):
        hg.dp_sgd(1000, 10)  # pyright: ignore
    with pytest.raises(TypeError, match="accountant"):
        make(accountant="rdp")


def test_a_delta_above_one_over_the_examples_warns():
    with pytest.warns(UserWarning, match=r"delta=0\.002 is above 1/examples = 0\.001") as caught:
        m = make(delta=2e-3)
    assert m.delta == 2e-3
    assert "choose a smaller delta" in str(caught[0].message)
    assert caught[0].filename.endswith("test_mechanism.py")


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-12])
def test_a_small_delta_does_not(delta):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(delta=delta)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(hg.Mechanism)])
def test_a_mechanism_cannot_be_changed(field):
    m = make()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(m, field, getattr(m, field))
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(m, field)


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": 0},
        {"noise_multiplier": math.nan},
        {"steps": -1},
        {"steps": 1.5},
        {"delta": 0},
        {"clip": 1.0},
        {"sampling": 0.01},
    ],
    ids=str,
)
def test_nor_remade_into_what_dp_sgd_would_refuse(change):
    (name,) = change
    with pytest.raises(InputError, match=rf"^{name} must "):
        dataclasses.replace(make(), **change)


# Every argument that makes another mechanism, by a change to it alone.
CHANGES = {
    "examples": {"examples": 1001},
    "batch_size": {"batch_size": 11},
    "steps": {"steps": 51},
    "clip": {"clip": 1.5},
    "delta": {"delta": 2e-5},
    "noise": {"noise_multiplier": 1.2},
}


def test_equal_mechanisms_are_equal():
    one, other = make(), make(steps=None, epochs=0.5)
    assert one == other
    assert hash(one) == hash(other)
    assert one.to_dict() == other.to_dict()
    assert {one: "found"}[other] == "found"


@pytest.mark.parametrize("name", CHANGES)
def test_every_argument_makes_another_mechanism(name):
    other = make(**CHANGES[name])
    assert other != make()
    assert hash(other) != hash(make())
    assert other.to_dict() != make().to_dict()


def test_as_plain_data():
    data = make(clip=2).to_dict()
    assert data == {
        "unit": "example",
        "neighbouring_relation": "add-or-remove-one",
        "examples": 1000,
        "batch_size": 10,
        "sampling": {"kind": "poisson", "rate": 0.01},
        "clip": {"kind": "flat", "norm": 2.0},
        "noise": {"kind": "gaussian", "noise_multiplier": 1.1},
        "steps": 50,
        "delta": 1e-5,
    }
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_a_dictionary_of_its_own():
    m = make()
    m.to_dict()["sampling"]["rate"] = 1.0
    assert m.to_dict()["sampling"]["rate"] == m.sampling_rate == 0.01


def test_the_statement_is_the_accountings():
    assert make().statement() == accounting.statement(make())
