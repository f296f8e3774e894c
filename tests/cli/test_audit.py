"""`hushgrad audit` in a terminal."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import hushgrad as hg
from hushgrad.cli.app import app
from hushgrad.errors import InputError


def call(*arguments):
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def refused(*arguments):
    result = call(*arguments)
    assert isinstance(result.exception, InputError), result
    return str(result.exception)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Losses of members that are far lower than those of others."""
    folder, rng = tmp_path_factory.mktemp("outputs"), np.random.default_rng(0)
    files = []
    for name, scale in (("members", 0.1), ("others", 2.0)):
        files.append(folder / f"{name}.npz")
        np.savez(files[-1], losses=rng.exponential(scale, 400), labels=rng.integers(0, 2, 400))
    return files


def test_outputs_are_attacked_and_held_against_a_promise(outputs, tmp_path):
    members, others = outputs
    sides = ("--members", members, "--non-members", others)
    found = call(*sides, "--epsilon", 1, "--plot", tmp_path / "roc.png")
    assert found.exit_code == 1
    assert "which is MORE than the promised epsilon 1" in found.output
    assert (tmp_path / "roc.png").stat().st_size > 1000
    assert all(len(line) <= 80 for line in found.output.splitlines() if "roc.png" not in line)
    kept = call(*sides, "--epsilon", 20)
    assert kept.exit_code == 0
    assert "within the promised epsilon 20" in kept.output
    assert call(*sides).exit_code == 0  # nothing was promised
    plain = json.loads(call(*sides, "--epsilon", 1, "--json").output)
    assert plain["exceeded"]
    assert plain["epsilon"] > 1
    by_class = call(*sides, "--by-class", "--attack", "threshold")
    assert "class 1" in by_class.output


def test_a_keras_model_is_attacked(tmp_path):
    pytest.importorskip("hushgrad.keras", reason="needs Keras: pip install 'hushgrad[keras]'")
    import keras

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 10)).astype("float32"), rng.integers(0, 2, 400)
    model = keras.Sequential(
        [keras.Input((10,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(2, "softmax")]
    )
    model.save(tmp_path / "model.keras")
    for name, part in (("a", slice(200)), ("b", slice(200, None))):
        np.savez(tmp_path / f"{name}.npz", x=x[part], y=y[part])
    sides = ("--members", tmp_path / "a.npz", "--non-members", tmp_path / "b.npz")
    found = call("--model", tmp_path / "model.keras", *sides, "--epsilon", 1)
    assert found.exit_code == 0, found.output
    assert "entropy" in found.output
    np.savez(tmp_path / "narrow.npz", x=x[:, :3], y=y)
    narrow = ("--members", tmp_path / "narrow.npz", "--non-members", tmp_path / "b.npz")
    assert "does not take what is in" in refused("--model", tmp_path / "model.keras", *narrow)


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """What a run wrote whose canaries all were found out."""
    folder, included = tmp_path_factory.mktemp("run"), np.arange(200) % 2 == 0
    m = hg.dp_sgd(examples=500, batch_size=50, steps=3, delta=1e-5, noise_multiplier=5.0)
    found = hg.audit.CanariesFound.of(
        hg.audit.Canaries(200), included + np.linspace(0, 0.1, 200), included, m
    )
    (folder / "audit.json").write_text(json.dumps(found.to_dict(per_canary=True)))
    return folder


def test_a_run_that_gave_away_more_than_promised_ends_with_1(audited, tmp_path):
    found = call(audited, "--plot", tmp_path / "roc.png")
    assert found.exit_code == 1
    assert "the promise does NOT hold" in found.output
    assert all(len(line) <= 80 for line in found.output.splitlines() if "roc.png" not in line)
    plain = json.loads(call(audited, "--json").output)
    assert plain["exceeded"]
    assert "scores" not in plain


def test_bad_input_is_refused(outputs, tmp_path):
    members, others = outputs
    assert "give the directory of a run" in refused()
    assert "has no audit.json" in refused(tmp_path)
    assert "not both" in refused(tmp_path, "--members", members)
    assert "not both" in refused(tmp_path, "--confidence", 0.99)
    assert "not both" in refused(tmp_path, "--by-class")
    assert "cannot be read as an .npz" in refused("--members", "none", "--non-members", others)
    np.savez(tmp_path / "x.npz", x=np.zeros(3))
    file = tmp_path / "x.npz"
    for content in (b"", b"no zip", (outputs[0].read_bytes()[:300])):
        (tmp_path / "damaged.npz").write_bytes(content)
        damaged = ("--members", tmp_path / "damaged.npz", "--non-members", others)
        assert "cannot be read as an .npz" in refused(*damaged)
    assert "has no outputs of a model" in refused("--members", file, "--non-members", others)
    model = ("--model", tmp_path / "none.keras")
    assert "must hold the arrays x and y" in refused(
        *model, "--members", file, "--non-members", file
    )
    np.savez(tmp_path / "xy.npz", x=np.zeros((3, 2)), y=np.zeros(3, int))
    both = ("--members", tmp_path / "xy.npz", "--non-members", tmp_path / "xy.npz")
    assert "cannot be read as a Keras model" in refused(*model, *both)
    sides = ("--members", members, "--non-members", others)
    assert "attack" in refused(*sides, "--attack", "magic")
