"""Tables as features and labels: by the schema alone, record by record, none left out."""

import json

import numpy as np
import pytest

from hushgrad.datasets import (
    Category,
    Number,
    Schema,
    encode_table,
    read_table,
    table_labels,
)
from hushgrad.datasets.table import column_kinds
from hushgrad.errors import DataError, InputError

pa = pytest.importorskip("pyarrow", reason="tables need pyarrow")

TOML = """
label = "ill"
missing = ["?"]
[columns.age]
kind = "number"
bounds = [0, 100]
knots = 3
[columns.town]
kind = "category"
categories = ["A", "B"]
[columns.name]
kind = "ignored"
[columns.ill]
kind = "category"
categories = ["no", "yes"]
"""
CSV = """age,town,name,ill
50, A,x,no
0,B,x,yes
250,C,x,yes
?,?,x,maybe
old,,x,
"""


@pytest.fixture
def schema(tmp_path):
    (tmp_path / "s.toml").write_text(TOML)
    return Schema.read(tmp_path / "s.toml")


@pytest.fixture
def file(tmp_path):
    (tmp_path / "t.csv").write_text(CSV)
    return tmp_path / "t.csv"


def test_the_schema_is_what_the_file_says(schema):
    assert schema.columns == (Number("age", 0.0, 100.0, knots=3), Category("town", ("A", "B")))
    assert schema.label == Category("ill", ("no", "yes"))
    assert schema.ignored == ("name",)
    assert schema.missing == ("", "?")
    assert schema.spent is None


def test_each_record_is_encoded_by_the_stated_rules(schema, file):
    found = encode_table(read_table(file, schema), schema)
    expected = [
        # scaled, near 0, 50 and 100, missing; A, B, other, missing
        [0, 0, 1, 0, 0, 1, 0, 0, 0],
        [-1, 1, 0, 0, 0, 0, 1, 0, 0],
        [1, 0, 0, 1, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 0, 0, 0, 1],
    ]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_a_record_without_a_known_label_counts_and_teaches_nothing(schema, file):
    labels, weights = table_labels(read_table(file, schema), schema)
    assert labels.tolist() == [0, 1, 1, 0, 0]
    assert weights.tolist() == [1, 1, 1, 0, 0]


def test_no_record_changes_how_another_is_encoded(schema, file, tmp_path):
    """Were bounds, names or types learned from the records, it would."""
    lines = CSV.splitlines()
    whole = encode_table(read_table(file, schema), schema)
    for row in range(1, len(lines)):
        (tmp_path / "one.csv").write_text(lines[0] + "\n" + lines[row] + "\n")
        alone = encode_table(read_table(tmp_path / "one.csv", schema), schema)
        np.testing.assert_array_equal(alone[0], whole[row - 1])


def test_parquet_gives_the_same(schema, tmp_path):
    import pyarrow.parquet as pq

    columns = {
        "age": pa.array([50.0, 0.0, 250.0, None, float("nan")]),
        "town": pa.array(["A", "B", "C", None, "?"]).dictionary_encode(),
        "name": ["x"] * 5,
        "ill": ["no", "yes", "yes", "maybe", None],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text(CSV)
    one, other = (read_table(tmp_path / f"t.{kind}", schema) for kind in ("csv", "parquet"))
    np.testing.assert_array_equal(encode_table(one, schema), encode_table(other, schema))
    np.testing.assert_array_equal(table_labels(one, schema), table_labels(other, schema))
    kinds = {"age": "number", "town": "category", "name": "category", "ill": "category"}
    assert column_kinds(tmp_path / "t.parquet") == kinds


def test_types_of_a_csv_are_never_taken_from_its_records(file):
    assert column_kinds(file) == {}


@pytest.mark.parametrize(("value", "expected"), [(0, -1), (9, 0), (99, 1), (1e9, 1), (-5, -1)])
def test_a_logarithmic_scale_is_finest_at_its_low_end(value, expected):
    column = Number("x", 0.0, 99.0, "log", 0)
    schema = Schema((column,), Category("y", ("a", "b")))
    found = encode_table({"x": pa.array([float(value)])}, schema)
    np.testing.assert_allclose(found, [[expected, 0]], atol=1e-6)


def test_knots_are_a_partition_of_one():
    schema = Schema((Number("x", -3.0, 5.0),), Category("y", ("a", "b")))
    found = encode_table({"x": pa.array(np.linspace(-10, 10, 301))}, schema)
    np.testing.assert_allclose(found[:, 1:17].sum(axis=1), 1, atol=1e-5)
    assert np.linalg.norm(found, axis=1).max() <= np.sqrt(2) + 1e-5


@pytest.mark.parametrize(
    "text",
    ["12", "+1.5", "-.5", "1e3", " 7 ", "1.", "1e400"],
)
def test_texts_that_read_as_numbers(text):
    schema = Schema((Number("x", -1e6, 1e6, knots=0),), Category("y", ("a", "b")))
    found = encode_table({"x": pa.array([text])}, schema)
    assert found[0, 1] == 0
    assert found[0, 0] == pytest.approx(np.clip(float(text) / 1e6, -1, 1))


@pytest.mark.parametrize("text", ["", "x", "1,5", "0x10", "1 2", "nan", None])
def test_texts_that_do_not(text):
    schema = Schema((Number("x", -1.0, 1.0),), Category("y", ("a", "b")))
    found = encode_table({"x": pa.array([text], pa.string())}, schema)
    assert found[0].tolist() == [0.0] * 17 + [1.0]


def test_numbers_to_predict_are_clipped_and_scaled():
    schema = Schema((Number("x", 0.0, 1.0),), Number("y", 10.0, 20.0))
    labels, weights = table_labels({"y": pa.array([10.0, 15.0, 99.0, None])}, schema)
    assert labels.tolist()[:3] == [-1, 0, 1]
    assert weights.tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (('label = "ill"', ""), "label must be one of the columns"),
        (('label = "ill"', 'label = "name"'), "columns.name.kind must not be 'ignored'"),
        (("bounds = [0, 100]", ""), "columns.age.bounds must be two numbers"),
        (("bounds = [0, 100]", 'bounds = ["FILL IN: least", 3]'), "columns.age.bounds"),
        (("bounds = [0, 100]", "bounds = [5, 5]"), "columns.age.bounds"),
        (("bounds = [0, 100]", "bounds = [0, inf]"), "columns.age.bounds"),
        (("knots = 3", "knots = 1"), "columns.age.knots"),
        (("knots = 3", 'scale = "root"'), "columns.age.scale"),
        (("knots = 3", "knot = 3"), r"cannot have \['knot'\]"),
        (('["A", "B"]', '["A", "A"]'), "columns.town.categories"),
        (('["A", "B"]', '["FILL IN: all"]'), "columns.town.categories"),
        (('["no", "yes"]', '["no"]'), "columns.ill.categories"),
        (('kind = "number"', 'kind = "FILL IN: number"'), "columns.age.kind"),
        (('missing = ["?"]', "colour = 3"), "colour"),
    ],
)
def test_what_is_missing_in_a_schema_is_named(changed, named, tmp_path):
    assert changed[0] in TOML
    (tmp_path / "s.toml").write_text(TOML.replace(*changed))
    with pytest.raises(InputError, match=named):
        Schema.read(tmp_path / "s.toml")


def test_files_that_cannot_be_used_are_named(schema, tmp_path):
    (tmp_path / "s.toml").write_text("label = ")
    with pytest.raises(DataError, match=r"s\.toml"):
        Schema.read(tmp_path / "s.toml")
    for content, named in (
        ("age,town,ill\n", r"\['name'\]|no rows"),
        ("age,town,name,ill\n", "no rows"),
        ("age,town,name,ill,more\n1,A,x,no,2\n", r"\['more'\] .* not in the schema"),
        ("age,town,name\n1,A,x\n", r"\['ill'\] of the schema are not in"),
        ("age,age,town,name,ill\n1,1,A,x,no\n", "several columns of one name"),
        ("age,town,name,ill\n1,A,x\n", "cannot be read as a table"),
    ):
        (tmp_path / "t.csv").write_text(content)
        with pytest.raises(DataError, match=named):
            read_table(tmp_path / "t.csv", schema)
    with pytest.raises(DataError, match=r"none\.csv"):
        read_table(tmp_path / "none.csv", schema)


def test_what_an_estimate_cost_is_read(tmp_path):
    mechanism = json.dumps({"histograms": {"columns": 3}})
    (tmp_path / "s.toml").write_text(TOML + f"[spent]\nid = 'x'\nmechanism = '{mechanism}'\n")
    spent = Schema.read(tmp_path / "s.toml").spent
    assert spent["mechanism"] == {"histograms": {"columns": 3}}
