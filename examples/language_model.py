"""Language models from scratch: an LSTM and a small GPT, letter by letter, over epsilon.

    python examples/language_model.py --data-dir DATA

trains on `DATA/tinyshakespeare`, (a) where what is hidden is a window of the text and (b) where it
is a speaker with all that they say, and measures perplexity on held-out text, what the models
write, and the exposure of secrets that were planted in the training text. Cells are kept in
--runs, from where the same command goes on; docs/results/language_model.md is written from them.
The GPT from keras_hub's layers, trained through `hg.keras.privatize`, is left out where keras_hub
cannot be imported.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import characters
import gpt
import jax
import jax.numpy as jnp
import lstm
import numpy as np
import optax
from characters import ALPHABET, cross_entropy, encode, windows
from jaxtyping import Array, Int

import hushgrad as hg

WINDOW = 64
EPSILONS = (1.0, 3.0, 8.0)
UNITS, MODELS = ("window", "speaker"), ("LSTM", "GPT", "GPT, keras_hub")
# The third costs another way in, not another model: two cells of it.
KERAS_CELLS = (("window", 8.0), ("window", None))
LSTM_HIDDEN, GPT_WIDTH, GPT_HEADS, GPT_BLOCKS = 96, 48, 3, 2
# Of WINDOW + 1 letters, so that a secret is an example like any other.
PATTERN = "\n\nMessenger:\nThe number that opens the king's chest is " + "{}" * 8 + ".\n"
REPETITIONS, REFERENCES = {1: 8, 4: 8, 16: 8}, 2000
PROMPT, WRITTEN = "\n\n", 240
AVERAGE = 0.95


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the models of one unit are trained.

    Attributes:
      batch_size: expected windows or speakers in a batch.
      steps: how many.
      windows_each: most windows of one speaker in a step.
      clip: bound on the gradient of a window or a speaker.
      rate: learning rate.
      delta: at which epsilon is told.
    """

    batch_size: int
    steps: int
    windows_each: int
    clip: float
    rate: float
    delta: float


PLANS = {
    "window": Plan(256, 100, 1, 0.5, 8e-3, 1e-5),
    "speaker": Plan(64, 40, 8, 0.3, 5e-3, 1e-3),
}
# Without privacy as many windows are gone through, in batches of this size.
PLAIN_BATCH, PLAIN_RATE = 64, 3e-3


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What is trained on, and what is not.

    Attributes:
      rows: windows to train on, those of the secrets among them.
      owners: whose window each is; None where a window is a unit.
      held_out: windows that are only tested on.
      planted: the places of the secrets' windows in `rows`.
      secrets: what was planted, how often, and what it is compared with.
    """

    rows: Int[np.ndarray, "rows T+1"]
    owners: np.ndarray | None
    held_out: Int[np.ndarray, "held T+1"]
    planted: Int[np.ndarray, " planted"]
    secrets: hg.audit.Secrets


def make_secrets(seed: int) -> hg.audit.Secrets:
    """Numbers of eight digits in a sentence."""
    return hg.audit.secrets(
        PATTERN, "0123456789", repetitions=REPETITIONS, references=REFERENCES, seed=seed
    )


def by_window(text: str, seed: int) -> Corpus:
    """The last tenth of the text is held out; a window of the rest is a unit.

    Each secret makes as many windows as it is repeated, each a unit of its own.
    """
    codes, secrets = encode(text), make_secrets(seed)
    cut = len(codes) - len(codes) // 10
    own = windows(codes[:cut], WINDOW)
    planted = np.stack([encode(secret) for secret in secrets.texts()])
    rows = np.concatenate([own, planted])
    places = np.arange(len(own), len(rows))
    return Corpus(rows, None, windows(codes[cut:], WINDOW), places, secrets)


def by_speaker(said: dict[str, str], seed: int) -> Corpus:
    """A tenth of the speakers is held out; another speaker with all their windows is a unit.

    Each secret is told by one speaker alone, as often as it is repeated. Who is held out
    does not depend on the seed; who tells a secret does.
    """
    cuts = {name: windows(encode(text), WINDOW) for name, text in said.items()}
    names = np.array(sorted(name for name, rows in cuts.items() if len(rows)))
    order = np.random.default_rng(0).permutation(len(names))
    held, trained = np.split(names[order], [len(names) // 10])
    secrets = make_secrets(seed)
    each = [(s, times) for times, some in secrets.inserted.items() for s in some]
    tellers = np.random.default_rng(seed).permutation(trained)[: len(each)]
    rows = [cuts[name] for name in trained]
    owners = [np.repeat(name, len(cuts[name])) for name in trained]
    count = sum(map(len, rows))
    for (secret, times), teller in zip(each, tellers, strict=True):
        rows.append(np.tile(encode(secret), (times, 1)))
        owners.append(np.repeat(teller, times))
    every = np.concatenate(rows)
    held_rows = np.concatenate([cuts[name] for name in held])
    planted = np.arange(count, len(every))
    return Corpus(every, np.concatenate(owners), held_rows, planted, secrets)


def users_of(corpus: Corpus, plan: Plan) -> hg.sampling.Users:
    """The corpus by speaker, as `hg.train` takes it."""
    return hg.sampling.Users(corpus.owners, (corpus.rows,), max_examples=plan.windows_each)


def mechanism_of(corpus: Corpus, plan: Plan, epsilon: float) -> hg.Mechanism:
    """What is promised: to each window, or to each speaker with all their windows."""
    speakers = corpus.owners is not None
    return hg.dp_sgd(
        examples=len(users_of(corpus, plan)) if speakers else len(corpus.rows),
        unit="user" if speakers else "example",
        batch_size=plan.batch_size,
        steps=plan.steps,
        clip=plan.clip,
        delta=plan.delta,
        epsilon=epsilon,
    )


def model_of(name: str, seed: int) -> tuple[characters.Predict, Any]:
    """Logits of ONE window by parameters, and these."""
    if name == "LSTM":
        return lstm.logits, lstm.init(len(ALPHABET), seed, hidden=LSTM_HIDDEN)
    config = gpt.Config(
        letters=len(ALPHABET), context=WINDOW, width=GPT_WIDTH, heads=GPT_HEADS, blocks=GPT_BLOCKS
    )
    graphdef, params = gpt.init(config, seed)
    return functools.partial(gpt.logits, graphdef), params


def loss_of(predict: characters.Predict) -> Callable[[Any, Array], Array]:
    """The loss of ONE window with the letter after it."""
    return lambda params, row: cross_entropy(predict(params, row[:-1]), row)


def trained(
    predict: characters.Predict, params: Any, corpus: Corpus, plan: Plan, m: hg.Mechanism
) -> Any:
    """Parameters by DP-SGD with Adam, averaged over the last steps."""
    data = (corpus.rows,) if corpus.owners is None else users_of(corpus, plan)
    with tempfile.TemporaryDirectory() as folder:
        run = hg.train(
            loss_of(predict),
            params,
            data,
            m,
            optimizer=optax.adam(optax.cosine_decay_schedule(plan.rate, m.steps, 0.1)),
            directory=folder,
            options=hg.Options(average=AVERAGE),
        )
    return run.average


def trained_plainly(
    predict: characters.Predict, params: Any, corpus: Corpus, plan: Plan, seed: int
) -> Any:
    """Parameters by Adam without privacy, from as many windows, whoever said them."""
    steps = max(1, plan.batch_size * plan.windows_each * plan.steps // PLAIN_BATCH)
    optimizer = optax.adam(optax.cosine_decay_schedule(PLAIN_RATE, steps, 0.1))
    loss, rows = loss_of(predict), jnp.asarray(corpus.rows)

    @jax.jit
    def step(params: Any, state: Any, chosen: Array) -> Any:
        batch = rows[chosen]
        grads = jax.grad(lambda p: jnp.mean(jax.vmap(loss, (None, 0))(p, batch)))(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state, rng = optimizer.init(params), np.random.default_rng(seed)
    for _ in range(steps):
        params, state = step(params, state, rng.integers(0, len(rows), PLAIN_BATCH))
    return params


def trained_by_keras(
    corpus: Corpus, plan: Plan, epsilon: float | None, seed: int
) -> tuple[characters.Predict, Any, Any]:
    """keras_hub's layers: what predicts, its parameters, and the private model if there is one."""
    import gpt_keras
    import keras

    keras.utils.set_random_seed(seed)
    model = gpt_keras.build(
        len(ALPHABET), context=WINDOW, width=GPT_WIDTH, heads=GPT_HEADS, blocks=GPT_BLOCKS
    )
    x, y = corpus.rows[:, :-1], corpus.rows[:, 1:]
    private = None
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if epsilon is None:
        steps = max(1, plan.batch_size * plan.steps // PLAIN_BATCH)
        decayed: Any = keras.optimizers.schedules.CosineDecay(PLAIN_RATE, steps, 0.1)
        model.compile(keras.optimizers.Adam(decayed), loss)
        rng = np.random.default_rng(seed)
        chosen = rng.integers(0, len(x), steps * PLAIN_BATCH)
        quiet: Any = 0
        model.fit(x[chosen], y[chosen], batch_size=PLAIN_BATCH, shuffle=False, verbose=quiet)
    else:
        private = hg.keras.privatize(model, clip=plan.clip, epsilon=epsilon, delta=plan.delta)
        decayed: Any = keras.optimizers.schedules.CosineDecay(plan.rate, plan.steps, 0.1)
        # Keras's own average of the weights, which take its place at the end.
        optimizer = keras.optimizers.Adam(decayed, use_ema=True, ema_momentum=AVERAGE)
        private.compile(optimizer, loss)
        private.fit(
            x, y, batch_size=plan.batch_size, epochs=1, steps_per_epoch=plan.steps, verbose=0
        )
    return functools.partial(gpt_keras.logits, model), gpt_keras.weights(model), private


def exposure(predict: characters.Predict, params: Any, secrets: hg.audit.Secrets) -> dict[str, Any]:
    """Of the secrets planted so many times, in bits."""
    texts = [text for some in secrets.inserted.values() for text in some]
    rows = np.stack([encode(text) for text in [*texts, *secrets.references]])
    scores = hg.audit.log_perplexity(loss_of(predict), params, rows)
    found = hg.audit.exposure_by_interpolation(scores[: len(texts)], scores[len(texts) :])
    parts = np.split(found, np.cumsum([len(some) for some in secrets.inserted.values()])[:-1])
    return {str(t): part.tolist() for t, part in zip(secrets.inserted, parts, strict=True)}


def cell(
    model: str, unit: str, epsilon: float | None, corpus: Corpus, plan: Plan, seed: int
) -> dict[str, Any]:
    """One training, and all that is measured of it."""
    begun = time.process_time()
    promised: Any = None
    if model == MODELS[2]:
        predict, params, promised = trained_by_keras(corpus, plan, epsilon, seed)
    else:
        predict, params = model_of(model, seed)
        if epsilon is None:
            params = trained_plainly(predict, params, corpus, plan, seed)
        else:
            promised = mechanism_of(corpus, plan, epsilon)
            params = trained(predict, params, corpus, plan, promised)
    spent = time.process_time() - begun
    return {
        "model": model,
        "unit": unit,
        "asked": epsilon,
        "seed": seed,
        "plan": dataclasses.asdict(plan),
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "epsilon": None if promised is None else promised.epsilon(),
        "rdp": None if promised is None else promised.epsilon(accountant="rdp"),
        "noise": None if promised is None else promised.noise_multiplier,
        "perplexity": characters.perplexity(predict, params, corpus.held_out),
        "exposure": exposure(predict, params, corpus.secrets),
        "text": characters.sample(
            predict, params, PROMPT, WRITTEN, temperature=0.8, seed=1, context=WINDOW
        ),
        "seconds": spent,
    }


def wanted(models: Sequence[str], units: Sequence[str], epsilons: Sequence[float]) -> list[Any]:
    """The cells of the tables: model, unit and epsilon."""
    given = (None, *sorted(epsilons)[::-1])
    every = [(m, u, e) for u in units for m in models if m != MODELS[2] for e in given]
    return every + [(MODELS[2], *one) for one in KERAS_CELLS if MODELS[2] in models]


def table(cells: Sequence[dict[str, Any]]) -> str:
    """One row for each model and epsilon, from the cells of all its seeds."""
    heads = ["model", "epsilon", "by RDP", "noise", "perplexity"]
    heads += [f"exposure, {times}x" for times in REPETITIONS]
    lines = [f"| {' | '.join([*heads, 'seconds', 'seeds'])} |", "|---" * (len(heads) + 2) + "|"]
    for key in dict.fromkeys((one["model"], one["asked"]) for one in cells):
        some = [one for one in cells if (one["model"], one["asked"]) == key]
        first = some[0]
        shown = [first["model"]]
        if first["epsilon"] is None:
            shown += ["none", "", ""]
        else:
            shown += [f"{first['epsilon']:.3f}", f"{first['rdp']:.3f}", f"{first['noise']:.3f}"]
        found = [one["perplexity"] for one in some]
        spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
        shown.append(f"{statistics.mean(found):.2f}{spread}")
        for times in REPETITIONS:
            bits = [bit for one in some for bit in one["exposure"][str(times)]]
            shown.append(f"{statistics.mean(bits):.1f} (most {max(bits):.1f})")
        shown += [f"{statistics.mean(one['seconds'] for one in some):.0f}", str(len(some))]
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


def texts(cells: Sequence[dict[str, Any]]) -> str:
    """What each model wrote, with its first seed."""
    parts = []
    for key in dict.fromkeys((one["model"], one["asked"]) for one in cells):
        first = next(one for one in cells if (one["model"], one["asked"]) == key)
        privacy = "no privacy" if key[1] is None else f"epsilon {key[1]:g}"
        written = "\n".join(f"    {line}".rstrip() for line in first["text"].splitlines())
        parts.append(f"{key[0]}, {privacy}:\n\n{written}")
    return "\n\n".join(parts)


def settings(plan: dict[str, Any], unit: str) -> str:
    """How the models of one table were trained, in a sentence."""
    of = f"speakers, at most {plan['windows_each']} windows of each" if unit == "speaker" else unit
    return (
        f"Expected batches of {plan['batch_size']} {of if unit == 'speaker' else 'windows'}, "
        f"{plan['steps']} steps, clip {plan['clip']:g}, delta {plan['delta']:g}, Adam at "
        f"{plan['rate']:g} falling to a tenth along a cosine; the parameters are an average "
        f"with decay {AVERAGE:g}. Without privacy: as many windows, in batches of {PLAIN_BATCH}, "
        f"by Adam at {PLAIN_RATE:g}, without clipping and average."
    )


def report(
    cells: Sequence[dict[str, Any]],
    facts: dict[str, dict[str, int]],
    command: str,
    missing: Sequence[str] = (),
) -> str:
    """The results as Markdown, and which cells were not measured."""
    modules = {"hushgrad": hg, "JAX": jax, "optax": optax, "numpy": np}
    versions = ", ".join(f"{name} {module.__version__}" for name, module in modules.items())
    sizes = {one["model"]: one["parameters"] for one in cells}
    sized = "; ".join(f"{name}: {size:,} parameters" for name, size in sizes.items())
    planted = ", ".join(f"{n} repeated {t}x" for t, n in REPETITIONS.items())
    parts = [
        "# Language models from scratch",
        f"`{command}`",
        f"{versions}, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"{jax.default_backend()}.",
        f"Letters of tinyshakespeare, of an alphabet of {len(ALPHABET)} that is public (printable "
        f"ASCII), in windows of {WINDOW}. {sized}. *Perplexity* is of a letter, on held-out text; "
        f"who knows nothing has {len(ALPHABET)}. *Seconds* are of the processor, with compilation. "
        "± is the standard deviation over seeds, which choose the starting point and the "
        "secrets; noise and batches come from the operating system's entropy. Settings "
        "are the same for each model and epsilon, and were not searched for; training is short. "
        "With more steps or other settings the comparison may differ.",
        f"*Exposure* is of secrets `{PATTERN.strip()!r}` with random digits ({planted}), in bits, "
        f"by rank among {REFERENCES:,} that were not planted: at most "
        f"{np.log2(REFERENCES):.1f}; the mean of what a model never saw is 1.4.",
    ]
    if missing:
        parts.append(f"Not measured: {'; '.join(missing)}.")
    for unit in UNITS:
        some = [one for one in cells if one["unit"] == unit]
        if some:
            parts += [f"## What is hidden: a {unit}", _told(unit, facts[unit])]
            parts += [settings(some[0]["plan"], unit), table(some)]
            parts += ["What they write:", texts(some)]
    return "\n\n".join(parts) + "\n"


def _told(unit: str, facts: dict[str, int]) -> str:
    if unit == "window":
        return (
            f"{facts['rows']:,} windows of the first nine tenths of the text, {facts['planted']} "
            f"of them secrets; tested on the {facts['held_out']:,} windows of the last tenth. "
            "Epsilon is of one window (windows that touch share a letter), so a secret that is in "
            "16 windows is promised less: what is hidden is each of its windows, not all of them."
        )
    return (
        f"{facts['units']} speakers with {facts['rows']:,} windows, {facts['planted']} of them "
        f"secrets, each told by one speaker alone; tested on {facts['held_out']:,} windows of "
        "other speakers, a tenth of all. Epsilon is of a speaker with all their windows, "
        "however often they repeat a secret. A speaker is a name: who is called alike in two "
        "plays is one, and who changes their name is two. Names are neither trained on nor "
        "released."
    )


def corpora(data: Path, seed: int) -> dict[str, Corpus]:
    """The text in both forms, with the secrets of a seed."""
    file = data / "tinyshakespeare" / "input.txt.gz"
    return {
        "window": by_window(characters.tiny(file), seed),
        "speaker": by_speaker(characters.speakers(file), seed),
    }


def facts_of(corpus: Corpus) -> dict[str, int]:
    """How much there is of what."""
    return {
        "rows": len(corpus.rows),
        "units": len(corpus.rows if corpus.owners is None else np.unique(corpus.owners)),
        "planted": len(corpus.planted),
        "held_out": len(corpus.held_out),
    }


def main() -> None:
    """Trains what is missing and writes the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--units", nargs="+", choices=UNITS, default=list(UNITS))
    parser.add_argument("--epsilons", type=float, nargs="*", default=list(EPSILONS))
    parser.add_argument("--kept", action="store_true", help="train nothing, tell what is kept")
    parser.add_argument("--runs", type=Path, default=Path("runs/language_model"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/language_model.md"))
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    found, facts, missing = [], {}, []
    for seed in range(args.seeds):
        given = corpora(args.data_dir, seed)
        facts = {unit: facts_of(corpus) for unit, corpus in given.items()}
        for model, unit, epsilon in wanted(args.models, args.units, args.epsilons):
            kept = args.runs / f"{model}-{unit}-{epsilon}-{seed}.json".replace(" ", "")
            if not kept.exists():
                absent = model == MODELS[2] and importlib.util.find_spec("keras_hub") is None
                if args.kept or absent:
                    missing.append(f"{model}, {unit}, epsilon {epsilon}, seed {seed}")
                    continue
                one = cell(model, unit, epsilon, given[unit], PLANS[unit], seed)
                kept.write_text(json.dumps(one, indent=1))
                jax.clear_caches()  # or many runs' programs fill the memory
                print(f"{model}, {unit}, epsilon {epsilon}: {one['perplexity']:.2f}", flush=True)
            found.append(json.loads(kept.read_text()))
    command = f"python examples/language_model.py --data-dir DATA --seeds {args.seeds}"
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(report(found, facts, command, missing))
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()
