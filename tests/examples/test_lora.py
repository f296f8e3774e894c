"""The recipe that fine-tunes a decoder, on a slice, with decoders of a few hundred weights."""

import dataclasses
import json
import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # before anything imports Keras

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hushgrad as hg

try:
    import keras_hub
except ImportError as error:
    # Without TensorFlow: pip install --no-deps keras-hub kagglehub kagglesdk tokenizers ...
    pytest.skip(f"needs KerasHub: {error}", allow_module_level=True)

import keras

TEXT = "I pray you, sir,\nwhat is it that you would have of me?\nNothing, my lord: "
TEXTS = {
    f"play/{name}": name * 3 + "\n" + TEXT * (1 + i % 3) for i, name in enumerate("ABCDEFGHIJ")
}
LENGTH, WORDS = 12, 280


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A preset, untrained: a decoder with a tokenizer that learned nothing."""
    folder = str(tmp_path_factory.mktemp("preset") / "checkpoint")
    letters = keras_hub.src.tokenizers.byte_pair_tokenizer.bytes_to_unicode()[1]
    words = {word: number for number, word in enumerate(["<|endoftext|>", *letters, "ou", "th"])}
    tokenizer = keras_hub.models.GPT2Tokenizer(vocabulary=words, merges=["o u", "t h"])
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=LENGTH)
    lm = keras_hub.models.GPT2CausalLM(backbone("GPT2", len(words)), preprocessor)
    lm.save_to_preset(folder)
    return folder


def backbone(family, words=WORDS):
    sizes = {"vocabulary_size": words, "num_layers": 1, "hidden_dim": 8, "intermediate_dim": 12}
    if family == "GPT2":
        return keras_hub.models.GPT2Backbone(
            **sizes, num_heads=2, max_sequence_length=LENGTH, dropout=0.0
        )
    heads = {"num_query_heads": 2, "num_key_value_heads": 1}
    if family == "Gemma":
        return keras_hub.models.GemmaBackbone(**sizes, **heads, head_dim=4)
    return keras_hub.models.LlamaBackbone(**sizes, **heads)


@pytest.fixture
def task(example, checkpoint, tmp_path):
    """The recipe, and its task on ten roles of a few lines."""
    lora = example("lora")
    tokenizer = lora.loaded(checkpoint).preprocessor.tokenizer
    plan = lora.Plan(
        steps=2, batch_size=6, users=4, most=2, length=LENGTH, rank=1, block_size=4, delta=1e-3
    )
    plan = dataclasses.replace(plan, rates=tuple((way, (0.01,)) for way in lora.WAYS))
    parts = lora.lora_text.parted(TEXTS, (0.2, 0.2))
    cut = [lora.lora_text.windows(tokenizer, part, LENGTH) for part in parts]
    return lora, lora.Task(checkpoint, None, plan, *cut, tmp_path)


def values(lm):
    return {v.path: np.array(v.value) for v in lm.backbone.weights}


@pytest.mark.parametrize(
    ("way", "unit"), [("lora", "window"), ("bias", "window"), ("lora", "role")]
)
def test_only_what_is_trained_changes(task, way, unit):
    lora, plan = task[0], task[1].plan
    lm = lora.loaded(task[1].checkpoint)
    model = lora.trainable(lm, way, plan.rank)
    trained = {v.path for v in model.trainable_variables}
    ends = {"lora": ("lora_kernel_a", "lora_kernel_b"), "bias": ("bias", "beta")}[way]
    assert trained == {path for path in values(lm) if path.endswith(ends)}
    before = values(lm)
    fit = lora.by_role if unit == "role" else lora.by_window
    told = fit(model, task[1].train, plan, 0.01, 8.0)
    assert told["epsilon"] <= 8.0
    assert told.get("users", 6) == 6  # of ten roles, two to choose by and two to test with
    after = values(lm)
    assert {path for path in before if before[path].tobytes() != after[path].tobytes()} == trained


@pytest.mark.parametrize("family", ["GPT2", "Gemma", "Llama"])
@pytest.mark.parametrize("way", ["lora", "bias"])
def test_the_clip_covers_all_that_is_trained(example, family, way):
    lora = example("lora")
    lm = getattr(keras_hub.models, f"{family}CausalLM")(backbone(family), preprocessor=None)
    model = lora.trainable(lm, way, 1)
    rng = np.random.default_rng(0)
    params = [
        jnp.asarray(0.3 * rng.normal(size=v.shape), jnp.float32) for v in model.trainable_variables
    ]
    assert all(("lora" in v.path) == (way == "lora") for v in model.trainable_variables)
    ids = rng.integers(1, WORDS, (3, LENGTH + 1)).astype(np.int32)
    mask = np.arange(LENGTH) < np.array([LENGTH, 5, 9])[:, None]
    batch = ids[:, :-1], mask.astype(np.int32), ids[:, 1:], mask.astype(np.float32)
    loss = lora.loss_of_window(model)
    each = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0, 0, 0)))(params, *batch)
    norms = np.sqrt(sum((np.asarray(g, np.float64).reshape(3, -1) ** 2).sum(1) for g in each))
    assert all(np.abs(g).max() > 0 for g in each)  # so that each has a share
    clip = float(np.median(norms))
    out = jax.jit(hg.clipped_grad(loss, clip))(params, *batch)
    np.testing.assert_allclose(out.norms, norms, rtol=1e-4)
    factors = np.minimum(1, clip / norms)
    for got, want in zip(out.grads, each, strict=True):
        expected = np.einsum("b,b...->...", factors, np.asarray(want))
        np.testing.assert_allclose(got, expected, atol=1e-4 * clip)
    slow = [
        row for row in hg.explain(loss, params, *(part[0] for part in batch)).rows if not row.fast
    ]
    assert way == "bias" or not slow, slow


def test_windows_hold_all_text_once(task):
    lora, it = task
    tokenizer = lora.loaded(it.checkpoint).preprocessor.tokenizer
    data = lora.lora_text.windows(tokenizer, TEXTS, LENGTH)
    for name, text in TEXTS.items():
        rows = data.who == name
        said = data.y[rows][data.weight[rows] > 0]
        first = data.x["token_ids"][rows][0, :1]
        assert tokenizer.detokenize(np.concatenate([first, said])) == text
    assert data.letters == sum(map(len, TEXTS.values())) - len(TEXTS)
    assert (data.x["padding_mask"] == (data.weight > 0)).all()
    parts = lora.lora_text.parted(TEXTS, (0.2, 0.2))
    assert sorted(name for part in parts for name in part) == sorted(TEXTS)


def test_perplexity_is_that_of_the_tokens_that_are_there(task):
    lora, it = task
    lm = lora.loaded(it.checkpoint)
    model = keras.Model(lm.input, lm.output)
    found = lora.lora_text.measured(model, it.test)
    logits = jax.nn.log_softmax(jnp.asarray(model(it.test.x)))
    nats = -np.take_along_axis(np.asarray(logits), it.test.y[..., None], -1)[..., 0]
    there = nats[it.test.weight > 0]
    assert found.perplexity == pytest.approx(np.exp(there.mean()), rel=1e-4)
    assert found.bits == pytest.approx(there.sum() / np.log(2) / it.test.letters, rel=1e-4)
    assert sum(tokens for _, tokens in found.roles.values()) == len(there)


def test_the_longest_copy_is_found(example):
    text = example("lora_text")
    assert text.longest_copy(["to be or not", "what say you"], "I say you may not be") == " say you"
    assert text.longest_copy(["xyz"], "abc") == ""


@pytest.mark.slow
def test_the_whole_recipe(task, tmp_path):
    lora, it = task
    keep = tmp_path / "cells.json"
    found = lora.run(it, [8.0], keep)
    assert set(found) == {"untouched", "lora role 8"} | {
        f"{way} window {epsilon}" for way in lora.WAYS for epsilon in ("8", "none")
    }
    assert json.loads(keep.read_text()) == json.loads(json.dumps(found))
    assert lora.run(it, [8.0], keep) == json.loads(keep.read_text())  # nothing is trained again
    written = lora.synthetic(it, "\n".join(TEXTS.values()), 4, [8.0])
    assert all(one["count"] == 4 for one in written.values())
    text = lora.report(it, [8.0], found, written, "command")
    assert text.count("| LoRA | ") == 3
    assert "written after LoRA at epsilon 8" in text


@pytest.mark.slow
def test_a_checkpoint_is_made_of_public_plays(example, real_data, tmp_path):
    if not (real_data / "shakespeare_plays").is_dir():
        pytest.skip(f"no shakespeare_plays in {real_data}")
    made = example("lora_checkpoint")
    public, private = made.roles(real_data, comedies=False), made.roles(real_data, comedies=True)
    assert not public.keys() & private.keys()
    assert {name.partition("/")[0] for name in private} == set(made.COMEDIES)
    some = list(public.values())[:3]
    lm = made.pretrained(some, size=260, length=8, width=8, layers=1, epochs=1, batch_size=64)
    lm.save_to_preset(str(tmp_path / "preset"))
    again = keras_hub.models.CausalLM.from_preset(str(tmp_path / "preset"))
    x = {"token_ids": np.arange(8)[None], "padding_mask": np.ones((1, 8), np.int32)}
    np.testing.assert_allclose(again(x), lm(x), rtol=1e-5)
