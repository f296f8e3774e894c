"""Data from anywhere: arrays, mapped files, items, tables, users."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobs import EXAMPLES, WIDTH, Items, Stop, flat, loss, mechanism

import hushgrad as hg
from hushgrad.errors import DataError, InputError, ResumeError
from hushgrad.training.data import prepare
from hushgrad.training.feed import ahead
from hushgrad.training.job import Job
from hushgrad.training.layout import Layout
from hushgrad.training.planting import Planted
from hushgrad.training.secret import RunSecret


class Batched(Items):
    """One that prefers to be asked for many at once."""

    def __getitem__(self, i):
        raise AssertionError

    def __getitems__(self, rows):
        self.read.append(rows)
        return [(self.x[i], self.y[i]) for i in rows]


def mapped(data, folder):
    out = []
    for name, array in zip("xy", data, strict=True):
        array.tofile(folder / name)
        out.append(np.memmap(folder / name, array.dtype, "r", shape=array.shape))
    return tuple(out)


def table(data):
    x, y = data
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), WIDTH)
    return pa.table({"extra": np.arange(len(x)), "x": column, "y": y})


def arrow(data, folder):
    made = table(data)
    with pa.ipc.new_file(folder / "t.arrow", made.schema) as file:
        file.write_table(made, max_chunksize=7)
    return hg.datasets.Columns(folder / "t.arrow", ["x", "y"])


def parquet(data, folder):
    pq.write_table(table(data), folder / "t.parquet", row_group_size=7)
    return hg.datasets.Columns(folder / "t.parquet", ["x", "y"])


SOURCES = {
    "mapped files": mapped,
    "items": lambda data, folder: Items(*data),
    "batches of items": lambda data, folder: Batched(*data),
    "arrow": arrow,
    "parquet": parquet,
    "table": lambda data, folder: hg.datasets.Columns(table(data), ["x", "y"]),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_any_source_trains_as_arrays_do(train, data, tmp_path, kind):
    want = train(seed=3, directory=tmp_path / "arrays")
    source = SOURCES[kind](data, tmp_path)
    got = train(seed=3, data=source, directory=tmp_path / "source")
    np.testing.assert_allclose(flat(got), flat(want), rtol=1e-6)
    assert got.epsilon == want.epsilon


@pytest.mark.parametrize("kind", SOURCES)
def test_what_is_drawn_is_all_that_is_read(data, tmp_path, kind):
    source = prepare(SOURCES[kind](data, tmp_path), mechanism(), hg.Options())
    rows = np.array([5, 59, 0, 5, 0, 0])
    x, y = source.rows(rows, np.random.default_rng(0))
    np.testing.assert_array_equal(x, data[0][rows])
    np.testing.assert_allclose(y, data[1][rows], rtol=1e-6)
    assert not source.hashed


def test_items_are_read_once_for_each_block(data):
    items = Items(*data)
    source = prepare(items, mechanism(), hg.Options())
    items.read.clear()
    source.rows(np.array([7, 0, 0, 0, 7]), np.random.default_rng(0))
    assert items.read == [0, 7]


@pytest.mark.parametrize("kind", ["items", "mapped files"])
def test_a_changed_record_in_a_repeated_batch_is_noticed(train, data, tmp_path, kind):
    """What is not hashed as a whole is hashed batch by batch, before each release."""
    source = SOURCES[kind](data, tmp_path)
    with pytest.raises(Stop):
        train(data=source, stop_after=9)  # checkpoints after 5 and 10: 5 to 8 are repeated
    changed = tuple(array.copy() for array in data)
    changed[0][:, 2] += 1e-3
    with pytest.raises(ResumeError, match="the data have changed: step 5 was begun with another"):
        train(data=Items(*changed) if kind == "items" else SOURCES[kind](changed, tmp_path))
    assert train(data=SOURCES[kind](data, tmp_path)).steps == 12


def test_another_length(train, data):
    with pytest.raises(InputError, match="data has 59 rows, but the mechanism accounts for 60"):
        train(data=Items(data[0][:-1], data[1][:-1]))


class Bad(Items):
    def __init__(self, item, *data):
        super().__init__(*data)
        self.item = item

    def __getitem__(self, i):
        return self.item(i)


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (lambda i: "text", "must be numbers"),
        (lambda i: (np.zeros(4), None), "must be numbers"),
        (lambda i: (np.zeros(4 + i), 0.0), "must hold arrays of the same shapes"),
    ],
)
def test_items_that_are_no_examples(train, data, item, told):
    with pytest.raises(DataError, match=told):
        train(data=Bad(item, *data))


def test_tables_in_memory_are_arrays(train, data, tmp_path):
    """They have a length and items, but these are not examples."""

    class Table:
        def __init__(self, array):
            self._array = array

        def __len__(self):
            return len(self._array)

        def __getitem__(self, name):
            raise KeyError(name)

        def __array__(self, dtype=None, copy=None):
            return self._array

    want = train(data=data, seed=3)
    got = train(data=(Table(data[0]), data[1]), seed=3, directory=tmp_path / "tables")
    np.testing.assert_array_equal(flat(got), flat(want))
    one = train(
        data=Table(data[0]),
        loss=lambda p, x: jnp.sum(x * p["w"]) + p["b"],
        directory=tmp_path / "one",
    )
    assert one.steps == 12


def test_a_mapping_by_other_keys_is_no_data(train):
    class Odd:
        def __len__(self):
            return EXAMPLES

        def __getitem__(self, name):
            raise KeyError(name)

    with pytest.raises(DataError, match=r"data\[0\] cannot be read \(KeyError"):
        train(data=Odd())


def test_no_items(train):
    with pytest.raises(InputError, match="data is empty"):
        train(data=Items(np.zeros((0, 4)), np.zeros(0)))


def test_an_error_while_reading_ends_the_run_and_it_goes_on(train, data, tmp_path):
    class Fails(Items):
        broken = True

        def __getitem__(self, i):
            if self.broken and len(self.read) > 40:
                raise OSError("the disk is gone")
            return super().__getitem__(i)

    items = Fails(*data)
    with pytest.raises(OSError, match="the disk is gone"):
        train(data=items, seed=3)
    items.broken = False
    whole = train(data=Items(*data), seed=3, directory=tmp_path / "whole")
    np.testing.assert_array_equal(flat(train(data=items, seed=3)), flat(whole))


def test_columns_that_are_wrong(tmp_path, data):
    made = table(data)
    with pytest.raises(DataError, match=r"columns \['z'\] are not in the table"):
        hg.datasets.Columns(made, ["x", "z"])
    with pytest.raises(InputError, match="columns must be a list"):
        hg.datasets.Columns(made, "x")
    with pytest.raises(DataError, match="cannot be read as a table"):
        hg.datasets.Columns(tmp_path / "none.arrow", ["x"])
    with pytest.raises(DataError, match="cannot be read as a table"):
        hg.datasets.Columns(tmp_path / "none.parquet", ["x"])
    for values, told in (
        ([1.0, None], "missing values"),
        (["a", "b"], "must be numbers"),
        ([[1.0], [1.0, 2.0]], "lists of one length"),
        ([[1.0], None], "missing values"),
        ([[1.0, None], [1.0, 2.0]], "missing values"),
    ):
        columns = hg.datasets.Columns(pa.table({"a": values}), ["a"])
        with pytest.raises(DataError, match=told):
            columns.take(np.array([0, 1]))
    nested = hg.datasets.Columns(pa.table({"a": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]}), ["a"])
    np.testing.assert_array_equal(nested.take(np.array([1]))[0], [[[5, 6], [7, 8]]])


def test_reading_ahead_keeps_order_and_does_not_run_away():
    made = []

    def items():
        for i in range(100):
            made.append(i)
            yield i

    reader = ahead(items(), 3)
    assert next(reader) == 0
    time.sleep(0.3)
    assert len(made) <= 5
    assert list(reader) == list(range(1, 100))


def test_reading_ahead_ends_with_its_reader():
    before = threading.active_count()
    reader = ahead(iter(range(10**9)), 2)
    assert [next(reader) for _ in range(3)] == [0, 1, 2]
    reader.close()
    assert threading.active_count() == before


def test_errors_come_where_the_item_would_have():
    def items():
        yield 1
        raise ValueError("broken")

    reader = ahead(items(), 5)
    assert next(reader) == 1
    with pytest.raises(ValueError, match="broken"):
        next(reader)


def test_augmented_examples_are_averaged_before_the_clip(train, data, tmp_path):
    """Variants of one example, next to no noise: the clipped gradient of their mean."""
    x, y = data

    def doubled(key, x, y):
        return 2 * x, y

    m = mechanism(noise_multiplier=1e-9)
    plain = train(mechanism=m, seed=3, data=(2 * x, y), directory=tmp_path / "plain")
    for times in (1, 3):
        got = train(
            mechanism=m,
            seed=3,
            augment=doubled,
            multiplicity=times,
            directory=tmp_path / str(times),
        )
        np.testing.assert_allclose(flat(got), flat(plain), rtol=1e-4, atol=1e-5)


def test_every_example_and_step_has_its_own_chance(train, data, tmp_path):
    def noisy(key, x, y):
        return x + 0.1 * jax.random.normal(key, x.shape), y

    runs = {}
    for times in (1, 64):
        folder = tmp_path / str(times)
        settings = {"seed": 3, "augment": noisy, "multiplicity": times, "directory": folder}
        runs[times] = train(mechanism=mechanism(noise_multiplier=1e-9), **settings)
    assert not np.allclose(flat(runs[1]), flat(runs[64]))
    # The same call again does the same; it goes on so too.
    again = train(
        mechanism=mechanism(noise_multiplier=1e-9),
        seed=3,
        augment=noisy,
        directory=tmp_path / "again",
    )
    np.testing.assert_array_equal(flat(again), flat(runs[1]))
    options = hg.Options(augment=noisy)
    source = prepare(data, mechanism(), options)
    planted = Planted(source, optax.sgd(0.1))
    job = Job(loss, mechanism(), planted, 8, options, Layout(None))
    words = [part.batch[0] for part in job.parts(RunSecret.from_seed(1), 0)]
    every = np.concatenate(words)
    assert len(np.unique(every, axis=0)) == len(every)


def test_a_moving_average_of_the_parameters(train, tmp_path):
    """Its weights by hand, and after a stop the same."""
    kept = []
    run = train(seed=3, average=0.8, callback=lambda p: kept.append(np.asarray(p.params["w"])))
    weights = 0.8 ** np.arange(len(kept))[::-1]
    want = np.average(kept, axis=0, weights=weights)
    np.testing.assert_allclose(run.average["w"], want, rtol=1e-5)
    with pytest.raises(Stop):
        train(seed=3, average=0.8, stop_after=7, directory=tmp_path / "part")
    part = train(seed=3, average=0.8, directory=tmp_path / "part")
    np.testing.assert_array_equal(part.average["w"], run.average["w"])
    plain = train(seed=3, directory=tmp_path / "plain")
    np.testing.assert_array_equal(plain.params["w"], run.params["w"])
    assert plain.average is None


def test_whole_numbers_among_the_parameters_are_not_averaged(train):
    start = {"w": jnp.ones(WIDTH), "b": jnp.zeros(()), "n": np.int32(3)}
    run = train(params=start, average=0.9, optimizer=optax.sgd(0.1))
    assert int(run.average["n"]) == 3


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"average": 1.0}, "average must lie strictly"),
        ({"augment": 3}, "augment must be a function"),
        ({"multiplicity": 0}, "multiplicity must be a whole number"),
        ({"multiplicity": 2}, "give augment"),
        ({"read_ahead": 0}, "read_ahead must be a whole number"),
    ],
)
def test_options_that_are_none(wrong, told):
    with pytest.raises(InputError, match=told):
        hg.Options(**wrong)


def test_a_billion_examples_cost_a_batch(tmp_path):
    """Rows made up as they are asked for; nothing is as large as the data."""

    class Endless:
        def __len__(self):
            return 10**9

        def __getitem__(self, i):
            return np.full(WIDTH, i % 7, np.float32), np.float32(i % 3)

    m = hg.dp_sgd(examples=10**9, batch_size=20, steps=3, delta=1e-10, noise_multiplier=1.0)
    start = {"w": np.ones(WIDTH, np.float32), "b": np.float32(0)}
    run = hg.train(loss, start, Endless(), m, optimizer=optax.sgd(0.1), directory=tmp_path / "r")
    assert run.steps == 3
