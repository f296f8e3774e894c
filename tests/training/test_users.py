"""Training user by user: who is drawn, what is clipped as one, and what each weighs."""

import numpy as np
import optax
import pytest
from jobs import WIDTH, Items, Stop, flat, loss, mechanism

import hushgrad as hg
from hushgrad.errors import DataError, InputError, ResumeError
from hushgrad.training.data import prepare
from hushgrad.training.secret import RunSecret

IDS = np.repeat(np.arange(20), 3)
SOME = np.concatenate([np.arange(20), np.repeat(np.arange(5), 8)])  # 5 have 9, 15 have 1


def of_users(**changes):
    return mechanism(examples=20, batch_size=5, unit="user", **changes)


def test_users_are_drawn_and_clipped_as_one(train, data, tmp_path):
    """Next to no noise, one step: the sum of the drawn users' clipped mean gradients."""
    m = of_users(steps=1, noise_multiplier=1e-9)
    drawn = m.sampling.draw(20, RunSecret.from_seed(3).sampling_generator(0))
    start = {"w": np.ones(WIDTH, np.float32), "b": np.float32(0)}
    run = train(
        data=hg.sampling.Users(IDS, data, max_examples=3),
        mechanism=m,
        seed=3,
        optimizer=optax.sgd(1.0),
        params=start,
    )
    x, y = (a.reshape(20, 3, *a.shape[1:]) for a in data)

    def of_user(params, x, y):
        return sum(loss(params, x[i], y[i]) for i in range(3)) / 3

    total = hg.clipped_grad(of_user, 1.0)(start, x[drawn], y[drawn]).grads
    for name in start:
        np.testing.assert_allclose(
            run.params[name], start[name] - np.asarray(total[name]) / 5, atol=1e-5
        )
    assert "any one user, with all their data" in " ".join(run.statement().split())


def test_whoever_has_few_examples_counts_no_less_and_nobodys_example_twice(data):
    users = hg.sampling.Users(SOME, data, max_examples=4)
    assert (len(users), users.examples) == (20, 60)
    rows, mask = users.members(np.arange(20), np.random.default_rng(0))
    assert rows.shape == mask.shape == (20, 4)
    np.testing.assert_array_equal(mask.sum(axis=1), [4] * 5 + [1] * 15)
    for user in range(20):
        own = rows[user][mask[user]]
        assert len(set(own)) == len(own)
        assert set(rows[user]) <= set(np.flatnonzero(user == SOME))


def test_which_examples_are_taken_changes_from_step_to_step(data):
    """400 draws of 4 in 9: each 178 times, deviation 10; five and a half of them."""
    users = hg.sampling.Users(SOME, data, max_examples=4)
    rng, counts = np.random.default_rng(1), np.zeros(60)
    for _ in range(400):
        rows, mask = users.members(np.array([0]), rng)
        counts[rows[mask]] += 1
    own = SOME == 0
    assert abs(counts[own] - 400 * 4 / 9).max() < 55
    assert not counts[~own].any()


def test_what_fills_up_does_not_weigh(train, data, tmp_path):
    """One example each, in places for one or for six: the same run."""
    ids = np.arange(60)
    m = mechanism(unit="user")
    runs = [
        train(
            data=hg.sampling.Users(ids, data, max_examples=most),
            mechanism=m,
            seed=3,
            directory=tmp_path / str(most),
        )
        for most in (1, 6)
    ]
    np.testing.assert_allclose(flat(runs[0]), flat(runs[1]), rtol=1e-4, atol=1e-5)
    plain = train(seed=3, directory=tmp_path / "plain")
    np.testing.assert_allclose(flat(runs[0]), flat(plain), rtol=1e-4, atol=1e-5)


def test_users_of_items_go_on_where_they_stopped(train, data, tmp_path):
    def users():
        return hg.sampling.Users([f"u{i}" for i in SOME], Items(*data), max_examples=4)

    whole = train(data=users(), mechanism=of_users(), seed=3, directory=tmp_path / "whole")
    with pytest.raises(Stop):
        train(data=users(), mechanism=of_users(), seed=3, stop_after=7)
    again = train(data=users(), mechanism=of_users(), seed=3)
    np.testing.assert_array_equal(flat(again), flat(whole))


def test_other_users_of_the_same_data_are_refused(train, data):
    with pytest.raises(Stop):
        train(data=hg.sampling.Users(IDS, data, max_examples=3), mechanism=of_users(), stop_after=6)
    moved = np.roll(IDS, 1)
    with pytest.raises(ResumeError, match="other data"):
        train(data=hg.sampling.Users(moved, data, max_examples=3), mechanism=of_users())


def test_users_and_their_mechanism_belong_together(train, data):
    users = hg.sampling.Users(IDS, data, max_examples=3)
    for changes in ({"data": users}, {"mechanism": mechanism(unit="user")}):
        with pytest.raises(InputError, match="unit='user' trains on"):
            train(**changes)
    with pytest.raises(InputError, match="data has 20 users, but the mechanism accounts for 60"):
        train(data=users, mechanism=mechanism(unit="user"))
    with pytest.raises(DataError, match="user_ids has 59 entries for 60 rows"):
        train(data=hg.sampling.Users(IDS[:-1], data, max_examples=3), mechanism=of_users())


def test_users_of_a_tables_column():
    """Columns of texts are arrays of objects."""
    ids = np.array(["b", "a", "b"], dtype=object)
    users = hg.sampling.Users(ids, np.arange(3.0), max_examples=2)
    assert (len(users), users.examples) == (2, 3)
    rows, mask = users.members(np.array([0, 1]), np.random.default_rng(0))
    assert (rows.tolist(), mask.tolist()) == ([[1, 1], [0, 2]], [[True, False], [True, True]])


@pytest.mark.parametrize(
    ("ids", "most", "kind", "told"),
    [
        (np.zeros((3, 2)), 3, DataError, "one entry per example"),
        ([], 3, DataError, "one entry per example"),
        ([1.0, np.nan], 3, DataError, "none of them missing"),
        (["a", None], 3, DataError, "none of them missing"),
        ([1, 2], 0, InputError, "max_examples must be a whole number"),
    ],
)
def test_users_that_are_none(data, ids, most, kind, told):
    with pytest.raises(kind, match=told):
        hg.sampling.Users(ids, data, max_examples=most)


def test_a_users_examples_are_varied_one_by_one(train, data, tmp_path):
    """What draws variants sees one example, and each has its own chance."""
    m = mechanism(examples=20, batch_size=5, unit="user", noise_multiplier=1e-9)

    def doubled(key, x, y):
        assert x.shape == (WIDTH,)
        return 2 * x, y

    def of(x, folder, **options):
        users = hg.sampling.Users(IDS, (x, data[1]), max_examples=3)
        return train(data=users, mechanism=m, seed=3, directory=tmp_path / folder, **options)

    want = of(2 * data[0], "plain")
    for times in (1, 2):
        got = of(data[0], str(times), augment=doubled, multiplicity=times)
        np.testing.assert_allclose(flat(got), flat(want), rtol=1e-4, atol=1e-5)
    options = hg.Options(augment=doubled)
    users = hg.sampling.Users(IDS, data, max_examples=3)
    mask, words, *_ = prepare(users, m, options).rows(np.arange(4), np.random.default_rng(0))
    assert words.shape == (*mask.shape, 2)
    assert len(np.unique(words.reshape(-1, 2), axis=0)) == mask.size
