"""A decoder fine-tuned on private text: all of it, LoRA, or its biases alone.

    python examples/lora.py --data-dir DATA [--checkpoint PRESET] [--output docs/results/lora.md]

`--checkpoint` is a folder that `save_to_preset` of KerasHub made, of Gemma, Llama, GPT-2 or another
decoder; nothing else changes with it. By default it is a small GPT-2 that `lora_checkpoint.py`
trains here on Shakespeare's histories and tragedies. What is private is what the roles of the
fourteen comedies say. It is fitted without privacy and at each epsilon, hiding one window of
text (`hg.keras.privatize`) or one role with all its lines (`hg.train` with `Users`), and then
writes text of its own. Cells are kept in --runs, from where the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import lora_text
import numpy as np
import optax

import hushgrad as hg

import hushgrad.keras  # isort: skip  (which finds Keras's backend)
import keras  # isort: skip
import keras_hub  # isort: skip  # pyright: ignore[reportMissingImports]
import lora_checkpoint  # isort: skip
from lora_report import report  # isort: skip

WAYS = ("full", "lora", "bias")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a decoder is fitted.

    Attributes:
      steps: of every training.
      batch_size: expected windows in a batch.
      users: expected roles in a batch, where roles are hidden.
      most: windows that a role takes part with.
      length: tokens of a window.
      rank: of LoRA.
      clip: bound on a gradient's norm; low, so that it acts on nearly all: Adam takes the
        scale out again, and nothing is to be chosen (Bu et al. 2023, arXiv 2206.07136).
      delta, user_delta: at which epsilon is counted.
      rates: learning rates to choose from, by what is trained.
      block_size: windows processed at once, which bounds memory.
    """

    steps: int = 30
    batch_size: int = 96
    users: int = 40
    most: int = 4
    length: int = 64
    rank: int = 4
    clip: float = 0.1
    delta: float = 1e-5
    user_delta: float = 1e-3
    rates: tuple[tuple[str, tuple[float, ...]], ...] = (
        ("full", (3e-4, 1e-3)),
        ("lora", (3e-3, 1e-2)),
        ("bias", (3e-3, 1e-2)),
    )
    block_size: int = 64


def loaded(checkpoint: str, dtype: str | None = None) -> Any:
    """The decoder of a preset, with its tokenizer."""
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    return keras_hub.models.CausalLM.from_preset(checkpoint, **options)


def trainable(lm: Any, way: str, rank: int) -> keras.Model:
    """The decoder as a model of which only a part is trained; it shares the weights.

    "lora" adds factors of that rank to the matrices of queries and values and trains those (Hu et
    al. 2021, arXiv 2106.09685). "bias" trains what is added to activations (Bu et al. 2022, arXiv
    2210.00036): biases of layers and of normalisation; where a family has none (Gemma, Llama), what
    activations are multiplied with, one number a channel: the scales of its normalisation.
    """
    backbone = lm.backbone
    backbone.trainable = True
    if way == "lora":
        backbone.enable_lora(rank)
        wanted = [v for v in backbone.trainable_variables if "lora" in v.name]
    elif way == "bias":
        wanted = [v for v in backbone.trainable_variables if v.name in ("bias", "beta")]
        wanted = wanted or [v for v in backbone.trainable_variables if len(v.shape) == 1]
    else:
        wanted = list(backbone.trainable_variables)
    for v in backbone.trainable_variables:
        v.trainable = any(v is one for one in wanted)
    # KerasHub's own fit would ask for TensorFlow or Grain, to read texts.
    return keras.Model(lm.input, lm.output)


class _Clock(keras.callbacks.Callback):
    """Seconds of a step: the first one, in which all is compiled, is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.ends.append(time.perf_counter())

    @property
    def step(self) -> float:
        return (self.ends[-1] - self.ends[0]) / max(1, len(self.ends) - 1)


def _loss() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def ordinary(model: keras.Model, data: Any, plan: Plan, rate: float) -> dict[str, Any]:
    """Fits without privacy, for as many steps."""
    clock = _Clock()
    model.compile(keras.optimizers.Adam(rate), _loss())
    rng = np.random.default_rng(0)
    need = plan.steps * plan.batch_size
    rounds = [rng.permutation(len(data.y)) for _ in range(-(-need // len(data.y)))]
    rows = data.some(np.concatenate(rounds)[:need])
    given: dict[str, Any] = {"sample_weight": rows.weight, "shuffle": False, "verbose": 0}
    model.fit(rows.x, rows.y, batch_size=plan.batch_size, callbacks=[clock], **given)
    return {"epsilon": None, "step": clock.step}


def by_window(
    model: keras.Model, data: Any, plan: Plan, rate: float, epsilon: float
) -> dict[str, Any]:
    """Fits with a promise to each window of text."""
    clock = _Clock()
    private = hg.keras.privatize(
        model, clip=plan.clip, epsilon=epsilon, delta=plan.delta, block_size=plan.block_size
    )
    private.compile(keras.optimizers.Adam(rate), _loss())
    given = {"sample_weight": data.weight, "batch_size": plan.batch_size}
    given |= {"steps_per_epoch": plan.steps, "epochs": 1}
    private.fit(data.x, data.y, **given, callbacks=[clock], verbose=0)
    return {
        "epsilon": private.epsilon(),
        "rdp": private.epsilon(accountant="rdp"),
        "noise": private.noise_multiplier,
        "step": clock.step,
    }


def loss_of_window(model: keras.Model) -> Callable[..., Any]:
    """`loss(params, ids, mask, target, weight)` of one window, by the variables trained."""
    frozen = [v.value for v in model.non_trainable_variables]

    def loss(params: Any, ids: Any, mask: Any, target: Any, weight: Any) -> Any:
        x = {"token_ids": ids[None], "padding_mask": mask[None]}
        logits: Any = model.stateless_call(params, frozen, x, training=True)[0]
        nats = optax.softmax_cross_entropy_with_integer_labels(
            logits[0].astype(jnp.float32), target
        )
        return jnp.sum(nats * weight) / len(weight)

    return loss


def by_role(
    model: keras.Model, data: Any, plan: Plan, rate: float, epsilon: float
) -> dict[str, Any]:
    """Fits with a promise to each role: all that it says comes and goes together."""
    rows = data.x["token_ids"], data.x["padding_mask"], data.y, data.weight
    users = hg.sampling.Users(data.who, rows, max_examples=plan.most)
    m = hg.dp_sgd(
        examples=len(users),
        batch_size=min(plan.users, len(users)),
        steps=plan.steps,
        clip=plan.clip,
        delta=plan.user_delta,
        epsilon=epsilon,
        unit="user",
    )
    start = [v.value for v in model.trainable_variables]
    clock: list[float] = []

    def tick(progress: Any) -> None:
        clock.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        run = hg.train(
            loss_of_window(model),
            start,
            users,
            m,
            optimizer=optax.adam(rate),
            directory=folder,
            callback=tick,
        )
    for variable, value in zip(model.trainable_variables, run.params, strict=True):
        variable.assign(value)
    return {
        "epsilon": m.epsilon(),
        "rdp": m.epsilon(accountant="rdp"),
        "noise": m.noise_multiplier,
        "step": (clock[-1] - clock[0]) / max(1, len(clock) - 1),
        "users": len(users),
    }


@dataclasses.dataclass(frozen=True)
class Task:
    """A checkpoint, private text in three parts, and how it is fitted.

    Attributes:
      checkpoint: folder of the preset.
      dtype: that it computes in; the preset's own where None.
      plan: of the trainings.
      train, choose, test: windows of different roles.
      folder: for the factors of LoRA that were trained.
    """

    checkpoint: str
    dtype: str | None
    plan: Plan
    train: Any
    choose: Any
    test: Any
    folder: Path

    def adapter(self, unit: str, epsilon: float | None) -> str:
        """Where the factors of LoRA are kept."""
        name = "none" if epsilon is None else f"{epsilon:g}"
        return str(self.folder / f"{unit}-{name}.lora.h5")

    def fitted(self, way: str, unit: str, epsilon: float | None, rate: float) -> Any:
        """A decoder fitted, as a model and as KerasHub's, and what is known of the training."""
        keras.utils.set_random_seed(0)
        begun = time.perf_counter()
        lm = loaded(self.checkpoint, self.dtype)
        model = trainable(lm, way, self.plan.rank)
        if epsilon is None:
            told = ordinary(model, self.train, self.plan, rate)
        else:
            fit = by_role if unit == "role" else by_window
            told = fit(model, self.train, self.plan, rate, epsilon)
        told["seconds"] = time.perf_counter() - begun
        told["trained"] = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
        return lm, model, told

    def cell(
        self, way: str, unit: str, epsilon: float | None, rates: Sequence[float]
    ) -> dict[str, Any]:
        """One way at one epsilon, with the rate that is best for the roles to choose by."""
        best: dict[str, Any] = {}
        tried: dict[str, float] = {}
        for rate in rates:
            lm, model, told = self.fitted(way, unit, epsilon, rate)
            tried[f"{rate:g}"] = bits = lora_text.measured(model, self.choose).bits
            if not best or bits < best["chosen_by"]:
                test = lora_text.measured(model, self.test)._asdict()
                best = {**told, "rate": rate, "chosen_by": bits, **test}
                if way == "lora":
                    lm.backbone.save_lora_weights(self.adapter(unit, epsilon))
            jax.clear_caches()
        return {**best, "tried": tried}


def synthetic(task: Task, private: str, count: int, epsilons: Sequence[float]) -> dict[str, Any]:
    """Text that tuned decoders write: read, copied from, and learned from.

    A small decoder is trained from nothing on as many windows of each kind of text, and tested on
    what the private roles of the test say.
    """
    tokenizer = loaded(task.checkpoint, task.dtype).preprocessor.tokenizer
    length, found = task.plan.length, {}
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(task.train.y))[:count]
    held = rng.permutation(len(task.test.y))[:count]
    texts = {
        "the private text itself": [_said(tokenizer, task.train, row) for row in rows],
        "what other private roles say": [_said(tokenizer, task.test, row) for row in held],
    }
    lm = loaded(task.checkpoint, task.dtype)
    texts["written by the checkpoint, untouched"] = lora_text.written(lm, count, length, seed=1)
    for epsilon in [*epsilons, None]:
        lm = loaded(task.checkpoint, task.dtype)
        lm.backbone.load_lora_weights(task.adapter("window", epsilon))
        name = "without privacy" if epsilon is None else f"at epsilon {epsilon:g}"
        texts[f"written after LoRA {name}"] = lora_text.written(lm, count, length, seed=1)
        jax.clear_caches()
    for name, some in texts.items():
        one: dict[str, Any] = {"samples": some[:3], "count": len(some), "copy": ""}
        if name != "the private text itself":
            one["copy"] = lora_text.longest_copy(some, private)
        if name != "what other private roles say":
            one |= _learned(tokenizer, some, task)
        found[name] = one
        jax.clear_caches()
    return found


def _said(tokenizer: Any, data: Any, row: int) -> str:
    there = data.x["token_ids"][row][data.weight[row] > 0]
    return str(tokenizer.detokenize(there))


def _learned(tokenizer: Any, texts: list[str], task: Task, epochs: int = 6) -> dict[str, Any]:
    """How well a small decoder that was trained on texts foresees the test."""
    keras.utils.set_random_seed(0)
    named = {str(number): text for number, text in enumerate(texts)}
    data = lora_text.windows(tokenizer, named, task.plan.length)
    model = lora_checkpoint.decoder(
        tokenizer.vocabulary_size(), task.plan.length, width=64, layers=1
    )
    model = keras.Model(model.input, model.output)
    model.compile(keras.optimizers.Adam(3e-3), _loss())
    given = {"sample_weight": data.weight, "batch_size": 16, "epochs": epochs, "verbose": 0}
    model.fit(data.x, data.y, **given)
    score = lora_text.measured(model, task.test)
    return {"perplexity": score.perplexity, "bits": score.bits, "windows": len(data.y)}


def run(task: Task, epsilons: Sequence[float], keep: Path) -> dict[str, Any]:
    """All cells; those that were made before are read from `keep`."""
    found: dict[str, Any] = json.loads(keep.read_text()) if keep.exists() else {}

    def kept(key: str, made: Callable[[], Any]) -> Any:
        if key not in found:
            found[key] = made()
            keep.write_text(json.dumps(found, indent=1))
            jax.clear_caches()
            shown = {k: v for k, v in found[key].items() if k != "roles"}
            print(key, shown, flush=True)
        return found[key]

    def untouched() -> dict[str, Any]:
        lm = loaded(task.checkpoint, task.dtype)
        model = keras.Model(lm.input, lm.output)
        parameters = int(lm.count_params())
        return {**lora_text.measured(model, task.test)._asdict(), "trained": 0, "all": parameters}

    kept("untouched", untouched)
    rates = dict(task.plan.rates)
    middle = sorted(epsilons)[len(epsilons) // 2]
    for way in WAYS:
        # Rates are chosen at the middle epsilon.
        first = kept(
            f"{way} window {middle:g}",
            lambda way=way: task.cell(way, "window", middle, rates[way]),
        )
        one = [first["rate"]]
        for epsilon in (None, *epsilons):
            name = "none" if epsilon is None else f"{epsilon:g}"
            kept(
                f"{way} window {name}",
                lambda way=way, epsilon=epsilon, one=one: task.cell(way, "window", epsilon, one),
            )
    one = [found[f"lora window {middle:g}"]["rate"]]
    for epsilon in epsilons:
        kept(
            f"lora role {epsilon:g}",
            lambda epsilon=epsilon: task.cell("lora", "role", epsilon, one),
        )
    return found


def main() -> None:
    """Trains what is missing and writes the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--checkpoint", help="folder of a preset; by default one made here")
    parser.add_argument("--dtype", help="that the decoder computes in, such as bfloat16")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 3.0, 8.0])
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--batch-size", type=int, default=Plan.batch_size)
    parser.add_argument("--block-size", type=int, default=Plan.block_size)
    parser.add_argument("--length", type=int, default=Plan.length)
    parser.add_argument("--rank", type=int, default=Plan.rank)
    parser.add_argument("--written", type=int, default=384, help="synthetic texts; 0 for none")
    parser.add_argument("--runs", type=Path, default=Path("runs/lora"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/lora.md"))
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    checkpoint = args.checkpoint or str(args.runs / "checkpoint")
    if args.checkpoint is None and not Path(checkpoint).exists():
        lora_checkpoint.make(args.data_dir, checkpoint)
    texts = lora_checkpoint.roles(args.data_dir, comedies=True)
    tokenizer = loaded(checkpoint, args.dtype).preprocessor.tokenizer
    parts = lora_text.parted(texts, (0.08, 0.12))
    plan = Plan(args.steps, args.batch_size, length=args.length, rank=args.rank)
    plan = dataclasses.replace(plan, block_size=args.block_size)
    train, choose, test = (lora_text.windows(tokenizer, part, plan.length) for part in parts)
    task = Task(checkpoint, args.dtype, plan, train, choose, test, args.runs)
    found = run(task, args.epsilons, args.runs / "cells.json")
    keep = args.runs / "synthetic.json"
    if args.written and not keep.exists():
        private = "\n\n".join(parts[0].values())
        made = synthetic(task, private, args.written, args.epsilons[1:])
        keep.write_text(json.dumps(made, indent=1))
    command = "python examples/lora.py --data-dir DATA"
    if args.checkpoint is not None:
        command += " --checkpoint PRESET"
    made = json.loads(keep.read_text()) if keep.exists() else {}
    text = report(task, args.epsilons, found, made, command)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(text)
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()
