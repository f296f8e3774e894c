"""Canaries in a run: they are where they should be, cost nothing, and see what is broken."""

import dataclasses
import stat

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jobs import Items, Stop, loss

import hushgrad as hg
from hushgrad.errors import InputError, ResumeError
from hushgrad.training.data import fingerprint, prepare
from hushgrad.training.options import Options
from hushgrad.training.planting import Planted
from hushgrad.training.secret import RunSecret

N, WIDTH = 200, 64
TRAIN = {"optimizer": optax.sgd(0.05), "seed": 5}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, WIDTH)).astype(np.float32), rng.integers(0, 4, N).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return {"w": jnp.zeros(WIDTH), "b": jnp.zeros(())}


def made(**changes):
    settings = {"examples": N, "batch_size": 50, "steps": 12, "clip": 1.0, "delta": 1e-3}
    return hg.dp_sgd(**settings | {"noise_multiplier": 1.0} | changes)


@pytest.mark.parametrize("kind", ["gradient", "rows", "mislabelled", "input"])
def test_a_run_with_canaries_tells_what_they_showed(data, params, tmp_path, kind):
    canaries = hg.audit.Canaries(60, kind=kind)
    run = hg.train(loss, params, data, made(), directory=tmp_path, audit=canaries, **TRAIN)
    assert run.epsilon == made().epsilon()  # they change nothing of the mechanism
    assert 0 <= run.audit.epsilon <= run.epsilon
    assert not run.audit.exceeded
    assert len(run.audit.scores) == 60
    assert np.isfinite(run.audit.scores).all()
    assert str(hg.audit.CanariesFound.load(tmp_path)) == str(run.audit)
    for name in ("canaries.json", "audit.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    again = hg.train(loss, params, data, made(), directory=tmp_path, audit=canaries, **TRAIN)
    np.testing.assert_array_equal(again.audit.scores, run.audit.scores)


def planted(canaries, data, params, m, seed=5):
    source = prepare(data, m, Options())
    drawn = canaries.draw(source, m, params, RunSecret.from_seed(seed))
    return drawn, canaries.plant(drawn, Planted(source, TRAIN["optimizer"]), loss, m, params)


def test_places_of_canaries_that_are_out_are_empty(data, params):
    drawn, run = planted(hg.audit.Canaries(60, kind="rows"), data, params, made())
    out = np.array(drawn["places"])[~np.array(drawn["included"])]
    assert 10 < len(out) < 50
    np.testing.assert_array_equal(np.flatnonzero(~run.source.present(np.arange(N))), out)


def test_mislabelled_rows_have_the_label_of_another_and_the_others_their_own(data, params):
    drawn, run = planted(hg.audit.Canaries(60, kind="mislabelled"), data, params, made())
    x, y = run.source.rows(np.arange(N), np.random.default_rng(0))
    expected = data[1].copy()
    expected[drawn["places"]] = data[1][drawn["labels"]]
    np.testing.assert_array_equal(y, expected)
    assert 30 < np.sum(y != data[1]) < 60  # three in four have another label than their own
    np.testing.assert_array_equal(x, data[0])


@pytest.mark.parametrize("kind", ["rows", "mislabelled", "input"])
def test_nobody_has_a_part_in_two_rows(params, kind):
    """Or the run would hide a single row, and theirs would be several."""
    whose = np.arange(N, dtype=np.float32)
    data = np.tile(whose[:, None], WIDTH), whose
    _, run = planted(hg.audit.Canaries(60, kind=kind), data, params, made())
    there = np.flatnonzero(run.source.present(np.arange(N)))
    x, y = run.source.rows(there, np.random.default_rng(0))
    owners = [number for row, label in zip(x, y, strict=True) for number in {*row, label}]
    assert len(owners) == len(set(owners))


def test_what_canaries_are_made_of_is_part_of_the_data_that_must_not_change(data, params):
    canaries, m = hg.audit.Canaries(60, kind="input"), made()
    drawn, run = planted(canaries, data, params, m)
    other = drawn | {"seed": drawn["seed"] + 1}
    given = Planted(prepare(data, m, Options()), TRAIN["optimizer"])
    changed = canaries.plant(other, given, loss, m, params)
    secret = RunSecret.from_seed(0)
    one, another = (fingerprint(made.source.content, secret) for made in (run, changed))
    assert one != another


def test_mixed_rows_have_values_of_others(data, params):
    drawn, run = planted(hg.audit.Canaries(60, kind="input"), data, params, made())
    x, _ = run.source.rows(np.arange(N), np.random.default_rng(0))
    places, (one, other) = np.array(drawn["places"]), np.array(drawn["mixed"])
    mixed, a, b = x[places], data[0][one], data[0][other]
    assert np.all((mixed == a) | (mixed == b))
    assert 0.4 < np.mean(mixed == a) < 0.6
    rest = np.setdiff1d(np.arange(N), places)
    np.testing.assert_array_equal(x[rest], data[0][rest])


@pytest.mark.parametrize(
    "clip",
    [0.5, hg.clip.Automatic(0.5), hg.clip.PerLayer({"w": 0.5, "b": 0.1}), hg.clip.Adaptive(0.5)],
    ids=lambda clip: type(clip).__name__,
)
def test_a_gradient_canary_adds_what_one_example_may(data, params, clip):
    """Its coordinate, as long as the rule lets a gradient be, once; nothing if it is not drawn."""
    m = made(clip=clip)
    drawn, run = planted(hg.audit.Canaries(60), data, params, m)
    summand = run.summand(hg.clipped_grad(loss, m.clip))
    rows = np.array([drawn["places"][7], drawn["places"][9], drawn["places"][7]])
    batch = run.source.rows(rows, np.random.default_rng(0))
    out = summand(params, *batch, mask=jnp.array([True, False, False]), norm=m.clip.init())
    model, canaries = out.grads
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(model))
    assert canaries[7] == pytest.approx(m.clip.sensitivity)
    assert np.linalg.norm(canaries) <= m.clip.sensitivity
    assert out.centred_bits == -0.5  # one more that was clipped


def test_gradient_canaries_leave_other_rows_as_they_are(data, params):
    m = made()
    drawn, run = planted(hg.audit.Canaries(60), data, params, m)
    engine = hg.clipped_grad(loss, m.clip)
    rest = np.setdiff1d(np.arange(N), drawn["places"])[:20]
    batch = run.source.rows(rest, np.random.default_rng(0))
    plain = engine(params, *(part[rest] for part in data), mask=jnp.ones(20, bool))
    out = run.summand(engine)(params, *batch, mask=jnp.ones(20, bool))
    model, canaries = out.grads
    jax.tree.map(np.testing.assert_array_equal, model, plain.grads)
    assert not np.any(canaries)
    np.testing.assert_array_equal(out.losses, plain.losses)
    assert out.centred_bits == plain.centred_bits


def test_a_stopped_run_ends_with_the_same_scores(data, params, tmp_path):
    canaries = hg.audit.Canaries(60)

    def stop(progress):
        if progress.step == 7:
            raise Stop

    call = {"audit": canaries, "options": hg.Options(checkpoint_every=3), **TRAIN}
    whole = hg.train(loss, params, data, made(), directory=tmp_path / "a", **call)
    with pytest.raises(Stop):
        hg.train(loss, params, data, made(), directory=tmp_path / "b", callback=stop, **call)
    ended = hg.train(loss, params, data, made(), directory=tmp_path / "b", **call)
    np.testing.assert_array_equal(ended.audit.scores, whole.audit.scores)
    np.testing.assert_array_equal(ended.params["w"], whole.params["w"])


@pytest.mark.parametrize(
    "other", [None, hg.audit.Canaries(61), hg.audit.Canaries(60, kind="rows")], ids=str
)
def test_a_run_goes_on_with_its_own_audit_alone(data, params, tmp_path, other):
    def stop(progress):
        raise Stop

    call = {"directory": tmp_path, **TRAIN}
    with pytest.raises(Stop):
        hg.train(loss, params, data, made(), audit=hg.audit.Canaries(60), callback=stop, **call)
    with pytest.raises(ResumeError, match="audit"):
        hg.train(loss, params, data, made(), audit=other, **call)


def test_a_run_without_its_canaries_cannot_go_on(data, params, tmp_path):
    def stop(progress):
        raise Stop

    call = {"directory": tmp_path, "audit": hg.audit.Canaries(60), **TRAIN}
    with pytest.raises(Stop):
        hg.train(loss, params, data, made(), callback=stop, **call)
    (tmp_path / "canaries.json").unlink()
    with pytest.raises(ResumeError, match=r"lost its canaries\.json"):
        hg.train(loss, params, data, made(), **call)


def test_it_sees_that_there_is_no_noise(data, params, tmp_path):
    """As good as no noise is charged for as if there were: only the audit can tell."""
    m = made(noise_multiplier=1e-3, batch_size=N, sampling=hg.sampling.Poisson(1.0), steps=2)
    claimed = made(noise_multiplier=4.0, batch_size=N, sampling=hg.sampling.Poisson(1.0), steps=2)
    run = hg.train(loss, params, data, m, directory=tmp_path, audit=hg.audit.Canaries(60), **TRAIN)
    found = run.audit
    again = hg.audit.one_run(found.scores, found.included, delta=1e-3, promise=claimed)
    assert again.refuted
    assert again.epsilon > claimed.epsilon()


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": hg.sampling.FixedSize},
        {"sampling": hg.sampling.Shuffle},
        {"clip": hg.clip.Adaptive(0.5)},
    ],
    ids=["fixed", "shuffle", "adaptive"],
)
def test_any_sampler_and_clip_can_be_audited(data, params, tmp_path, changes):
    run = hg.train(
        loss,
        params,
        data,
        made(**changes),
        directory=tmp_path,
        audit=hg.audit.Canaries(60),
        **TRAIN,
    )
    assert not run.audit.exceeded


def test_users_and_items_can_be_canaries(data, params, tmp_path):
    users = hg.sampling.Users(np.arange(N) // 2, data)
    m = made(examples=N // 2, unit="user")
    for kind in ("gradient", "rows"):
        canaries = hg.audit.Canaries(40, kind=kind)
        run = hg.train(loss, params, users, m, directory=tmp_path / kind, audit=canaries, **TRAIN)
        assert not run.audit.exceeded
    items = Items(*data)
    audit = hg.audit.Canaries(40, kind="mislabelled")
    run = hg.train(loss, params, items, made(), directory=tmp_path / "i", audit=audit, **TRAIN)
    assert not run.audit.exceeded


@pytest.mark.parametrize(
    ("canaries", "message"),
    [
        (lambda: hg.audit.Canaries(8), "count must be a whole number of at least 32"),
        (lambda: hg.audit.Canaries(60, kind="birds"), "kind must be one of gradient, rows"),
        (lambda: hg.audit.Canaries(60, confidence=1.0), "confidence must lie strictly between"),
        (lambda: hg.audit.Canaries(32, confidence=1 - 1e-12), "count must be at least 44"),
        (lambda: hg.audit.Canaries(101), "take at most 100"),
        (lambda: hg.audit.Canaries(67, kind="input"), "take at most 66"),
        (lambda: "many", "audit must be hg.audit.Canaries"),
    ],
)
def test_bad_input_is_refused(data, params, tmp_path, canaries, message):
    with pytest.raises(InputError, match=message):
        hg.train(loss, params, data, made(), directory=tmp_path, audit=canaries(), **TRAIN)
    assert not (tmp_path / "ledger.sqlite").exists()


def test_labels_that_are_all_alike_are_refused(data, params, tmp_path):
    alike = data[0], np.zeros(N, np.float32)
    audit = hg.audit.Canaries(60, kind="mislabelled")
    with pytest.raises(InputError, match="found no other label"):
        hg.train(loss, params, alike, made(), directory=tmp_path, audit=audit, **TRAIN)


def test_labels_may_be_of_several_arrays(data, params, tmp_path):
    several = data[0], {"a": data[1], "b": np.ones((N, 2), np.float32)}
    audit = hg.audit.Canaries(60, kind="mislabelled")
    run = hg.train(
        lambda p, x, y: loss(p, x, y["a"] * y["b"][0]),
        params,
        several,
        made(),
        directory=tmp_path,
        audit=audit,
        **TRAIN,
    )
    assert not run.audit.exceeded


def test_single_records_are_no_canaries_for_users(data, params, tmp_path):
    users, m = hg.sampling.Users(np.arange(N) // 2, data), made(examples=N // 2, unit="user")
    audit = hg.audit.Canaries(32, kind="input")
    with pytest.raises(InputError, match="hides users with all of theirs"):
        hg.train(loss, params, users, m, directory=tmp_path, audit=audit, **TRAIN)


def test_there_is_nothing_to_load_without_canaries(tmp_path):
    with pytest.raises(InputError, match=r"has no audit\.json"):
        hg.audit.CanariesFound.load(tmp_path)


def test_what_was_found_can_be_told_without_the_canaries(data, params):
    scores, included = np.arange(40.0), np.arange(40) % 2 == 0
    found = hg.audit.CanariesFound.of(hg.audit.Canaries(40), scores, included, made())
    assert not {"scores", "included"} & set(found.to_dict())
    assert {"scores", "included"} <= set(found.to_dict(per_canary=True))
    assert dataclasses.is_dataclass(found)
