"""Language models from scratch, on a slice."""

import dataclasses
import importlib.util
import json
import sys

import jax
import numpy as np
import pytest

import hushgrad as hg

pytest.importorskip("flax.nnx", reason="needs Flax: pip install flax")

WORDS = [
    "to",
    "be",
    "or",
    "not",
    "that",
    "is",
    "the",
    "question",
    "whether",
    "it",
    "were",
    "nobler",
    "in",
    "mind",
]


def text_of(speakers, speeches=6):
    """Blocks as those of tinyshakespeare; every line is said by one speaker alone."""
    rng = np.random.default_rng(0)
    blocks = []
    for turn in range(speeches * speakers):
        name = f"Lord {chr(65 + turn % speakers)}"
        said = " ".join(rng.choice(WORDS, 8))
        blocks.append(f"{name}:\n{said}, as says {name[-1] * 3}.")
    return "\n\n".join(blocks) + "\n"


@pytest.fixture
def characters(example):
    return example("characters")


@pytest.fixture
def recipe(example, monkeypatch, characters):
    """The example, with models, windows and plans that are small."""
    monkeypatch.setitem(sys.modules, "characters", characters)
    module = example("language_model")
    small = {"WINDOW": 16, "LSTM_HIDDEN": 6, "GPT_WIDTH": 8, "GPT_HEADS": 2, "GPT_BLOCKS": 1}
    small |= {"PATTERN": "\nTell no {}{}{}{}.\n\n\n", "WRITTEN": 20}
    small |= {"REPETITIONS": {1: 2, 4: 2}, "REFERENCES": 30, "PLAIN_BATCH": 8}
    for name, value in small.items():
        monkeypatch.setattr(module, name, value)
    plans = {
        "window": module.Plan(40, 3, 1, 0.5, 1e-2, 1e-3),
        "speaker": module.Plan(8, 3, 2, 0.3, 1e-2, 1e-2),
    }
    monkeypatch.setattr(module, "PLANS", plans)
    return module


@pytest.fixture
def folder(tmp_path):
    import gzip

    (tmp_path / "tinyshakespeare").mkdir()
    with gzip.open(tmp_path / "tinyshakespeare" / "input.txt.gz", "wt") as stream:
        stream.write(text_of(20))
    return tmp_path


def said_in(folder, characters):
    return characters.speakers(folder / "tinyshakespeare" / "input.txt.gz")


def test_letters_are_public_and_windows_touch(characters):
    text = "".join(chr(code) for code in range(32, 127)) + "\n"
    assert characters.decode(characters.encode(text)) == text
    assert characters.decode(characters.encode("a\tb\u00e9")) == "a b "
    rows = characters.windows(characters.encode("abcdefgh"), 3)
    assert [characters.decode(row) for row in rows] == ["abcd", "defg"]
    assert characters.windows(characters.encode("abc"), 3).shape == (0, 4)
    assert characters.windows(characters.encode(""), 3).shape == (0, 4)


def test_speakers_of_blocks(folder, characters):
    said = said_in(folder, characters)
    assert sorted(said) == [f"Lord {chr(65 + n)}" for n in range(20)]
    assert said["Lord B"].count("\n\n") == 5
    assert all(f"says {name[-1] * 3}" in text for name, text in said.items())
    assert "Lord" not in "".join(said.values())


def test_the_speakers_of_tinyshakespeare(real_data, characters):
    file = real_data / "tinyshakespeare" / "input.txt.gz"
    if not file.is_file():
        pytest.skip(f"no {file.name} in {file.parent}")
    said = characters.speakers(file)
    assert len(said) == 299
    assert said["First Citizen"].startswith("Before we proceed any further, hear me speak.")


def test_perplexity_and_samples_of_models_that_are_known(characters):
    letters = len(characters.ALPHABET)
    rows = characters.windows(np.arange(90, dtype=np.int32) % letters, 8)

    def uniform(params, tokens):
        return params * jax.nn.one_hot(tokens, letters) * 0

    def next_one(params, tokens):
        return params * jax.nn.one_hot((tokens + 1) % letters, letters)

    assert characters.perplexity(uniform, 1.0, rows, block=4) == pytest.approx(letters, rel=1e-5)
    # exp(-log softmax) by hand, over blocks that do not fill up.
    by_hand = (np.exp(2.0) + letters - 1) / np.exp(2.0)
    assert characters.perplexity(next_one, 2.0, rows, block=4) == pytest.approx(by_hand, rel=1e-5)
    start = characters.ALPHABET[5:8]
    written = characters.sample(next_one, 100.0, start, 10, context=4)
    assert written == characters.ALPHABET[8:18]


def test_the_gpt_looks_back_only_and_takes_the_fast_paths(example, characters):
    gpt = example("gpt")
    graphdef, params = gpt.init(gpt.Config(letters=11, context=8, width=8, heads=2, blocks=1), 0)
    rows = np.random.default_rng(0).integers(0, 11, (6, 9)).astype(np.int32)
    first = np.asarray(gpt.logits(graphdef, params, rows[0, :-1]))
    changed = np.where(np.arange(8) < 5, rows[0, :-1], (rows[0, :-1] + 1) % 11)
    second = np.asarray(gpt.logits(graphdef, params, changed))
    np.testing.assert_allclose(first[:5], second[:5], rtol=1e-5, atol=1e-6)
    assert np.abs(first[5:] - second[5:]).max(axis=1).min() > 1e-3

    def loss(params, row):
        return characters.cross_entropy(gpt.logits(graphdef, params, row[:-1]), row)

    assert "100.0% of the trained entries need no fallback" in str(
        hg.explain(loss, params, rows[0])
    )
    assert hg.check(loss, params, (rows,)).largest < 1e-4
    names = {jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)}
    for layer in ("attention']['query", "attention']['out", "mlp']['up", "mlp']['down"):
        assert any(layer in name and "kernel" in name for name in names), (layer, names)


def test_secrets_are_planted_where_said_and_never_held_out(recipe, folder, characters):
    for unit, corpus in recipe.corpora(folder, 3).items():
        rows = [characters.decode(row) for row in corpus.rows]
        planted = [rows[place] for place in corpus.planted]
        assert sorted(planted) == sorted(corpus.secrets.texts()), unit
        for times, some in corpus.secrets.inserted.items():
            assert all(rows.count(secret) == times for secret in some), unit
        elsewhere = set(range(len(rows))) - set(corpus.planted.tolist())
        held = [characters.decode(row) for row in corpus.held_out]
        assert not any("Tell no" in rows[place] for place in elsewhere), unit
        assert not any("Tell no" in row for row in held), unit
        assert not set(planted) & set(corpus.secrets.references), unit


def test_the_pattern_fills_a_window(example):
    module = example("language_model")
    assert len(module.PATTERN.replace("{}", "0")) == module.WINDOW + 1
    assert len(module.make_secrets(0).texts()) == sum(t * n for t, n in module.REPETITIONS.items())


def only_their_own(corpus, plan, m, said, characters):
    """What the guarantee of a speaker rests on: nobody's windows are in two units."""
    users = hg.sampling.Users(corpus.owners, (corpus.rows,), max_examples=plan.windows_each)
    assert m.unit == "user"
    assert m.examples == len(users)
    rng = np.random.default_rng(0)
    planted = set(corpus.planted.tolist())
    whole = hg.sampling.Users(corpus.owners, (corpus.rows,))
    for number, name in enumerate(users.names):
        assert len(users.rows(number, rng)) <= plan.windows_each
        own = whole.rows(number, rng)
        for place in own:
            text = characters.decode(corpus.rows[place])
            assert place in planted or text in said[str(name)], f"{name} never said {text!r}"
        secrets = {characters.decode(corpus.rows[place]) for place in own if place in planted}
        assert len(secrets) <= 1, f"{name} tells the secrets of others"


def test_a_unit_is_a_speaker_with_all_that_they_say(recipe, folder, characters):
    said, plan = said_in(folder, characters), recipe.PLANS["speaker"]
    corpus = recipe.corpora(folder, 0)["speaker"]
    m = recipe.mechanism_of(corpus, plan, 8.0)
    only_their_own(corpus, plan, m, said, characters)
    # Every window of a trained speaker is there, and no window of one who is held out.
    trained = {str(name) for name in np.unique(corpus.owners)}
    assert len(trained) == 18
    held = {characters.decode(row) for row in corpus.held_out}
    for name, text in said.items():
        cuts = characters.windows(characters.encode(text), recipe.WINDOW)
        mine = [characters.decode(row) for row in cuts]
        if name in trained:
            rows = [characters.decode(row) for row in corpus.rows[corpus.owners == name]]
            assert rows[: len(mine)] == mine
        else:
            assert set(mine) <= held


def test_windows_under_a_wrong_name_are_found(recipe, folder, characters):
    said, plan = said_in(folder, characters), recipe.PLANS["speaker"]
    corpus = recipe.corpora(folder, 0)["speaker"]
    m = recipe.mechanism_of(corpus, plan, 8.0)
    wrong = corpus.owners.copy()
    wrong[3] = corpus.owners[-len(corpus.planted) - 1]
    with pytest.raises(AssertionError, match="never said"):
        only_their_own(dataclasses.replace(corpus, owners=wrong), plan, m, said, characters)
    alone = np.arange(len(corpus.rows)).astype(str)  # each window a person of its own
    with pytest.raises(AssertionError):
        only_their_own(dataclasses.replace(corpus, owners=alone), plan, m, said, characters)
    # And hg.train refuses users that are not those that the mechanism counts.
    predict, params = recipe.model_of("LSTM", 0)
    with pytest.raises(hg.errors.InputError, match="examples"):
        recipe.trained(predict, params, dataclasses.replace(corpus, owners=alone), plan, m)


@pytest.mark.parametrize(
    ("unit", "model"),
    [
        ("speaker", "LSTM"),
        pytest.param("window", "LSTM", marks=pytest.mark.slow),
        pytest.param("window", "GPT", marks=pytest.mark.slow),
        pytest.param("speaker", "GPT", marks=pytest.mark.slow),
    ],
)
def test_models_are_trained_and_told(recipe, folder, tmp_path, monkeypatch, unit, model):
    arguments = ["--data-dir", folder, "--runs", tmp_path / "runs", "--units", unit]
    arguments += ["--models", model, "--epsilons", 8.0, "--output", tmp_path / "out.md"]
    monkeypatch.setattr(sys, "argv", ["example", *map(str, arguments)])
    recipe.main()
    cells = [json.loads(file.read_text()) for file in (tmp_path / "runs").glob("*.json")]
    assert sorted((one["model"], one["asked"] or 0) for one in cells) == [(model, 0), (model, 8.0)]
    report = (tmp_path / "out.md").read_text()
    for one in cells:
        assert 1 < one["perplexity"] < 300
        assert len(one["text"]) == 20
        assert {times: len(bits) for times, bits in one["exposure"].items()} == {"1": 2, "4": 2}
        if one["asked"] is not None:
            assert one["epsilon"] <= 8.0
            assert f"| {one['epsilon']:.3f} | {one['rdp']:.3f} | {one['noise']:.3f} |" in report
        assert f"| {one['perplexity']:.2f} |" in report
    assert f"## What is hidden: a {unit}" in report
    # Kept cells are told again, not measured again.
    monkeypatch.setattr(recipe, "cell", None)
    recipe.main()
    assert (tmp_path / "out.md").read_text() == report
    # What is missing is said.
    next((tmp_path / "runs").glob("*8.0*")).unlink()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--kept"])
    recipe.main()
    told = (tmp_path / "out.md").read_text()
    assert f"Not measured: {model}, {unit}, epsilon 8.0, seed 0." in told
    assert f"| {model} | 8" not in told


def test_seeds_of_one_cell_are_one_row(recipe):
    one = {"model": "LSTM", "asked": None, "epsilon": None, "rdp": None, "noise": None}
    one |= {"exposure": {"1": [0.0, 2.0], "4": [4.0, 4.0]}, "seconds": 10}
    row = recipe.table([{**one, "perplexity": 6.0}, {**one, "perplexity": 8.0}]).splitlines()[-1]
    assert row == ("| LSTM | none |  |  | 7.00 ± 1.41 | 1.0 (most 2.0) | 4.0 (most 4.0) | 10 | 2 |")


@pytest.mark.slow
def test_the_gpt_of_keras_hub(recipe, folder):
    if importlib.util.find_spec("keras_hub") is None:
        pytest.skip("needs keras_hub: pip install keras-hub")
    corpus, plan = recipe.corpora(folder, 0)["window"], recipe.PLANS["window"]
    for epsilon in (8.0, None):
        one = recipe.cell("GPT, keras_hub", "window", epsilon, corpus, plan, 0)
        assert 1 < one["perplexity"] < 300
        assert one["epsilon"] is None if epsilon is None else one["epsilon"] <= epsilon
