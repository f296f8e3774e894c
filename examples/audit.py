"""Audits: what attackers get from a model without privacy, and at epsilon 1, 3 and 8.

    python examples/audit.py --data-dir DATA [--output docs/results/audit.md]

The CNN of the MNIST recipe, with 1,000 canaries in each run: attacks on its outputs, and what
the canaries of one run prove. Then Fashion-MNIST with 5,000 training images, on which a small
perceptron learns single images by heart: LiRA and RMIA with shadow models. What is done is kept
in --runs, from where the same command goes on. It takes about an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hushgrad as hg
from hushgrad import recipes
from hushgrad.datasets import idx

EPSILONS = (None, 1.0, 3.0, 8.0)
# Learning rate of the recipe at each epsilon, as docs/results/mnist.md found them.
RATES = {None: 0.1, 1.0: 1.0, 3.0: 1.0, 8.0: 2.0}
CANARIES, ATTACKED = 1_000, 10_000
POOL, SHADOWS = 10_000, 32
ATTACKS = ("threshold", "entropy", "logistic", "forest", "neighbours", "mlp")


def mechanism(epsilon: float | None, examples: int) -> hg.Mechanism:
    """The recipe's, or one whose clip touches nothing and whose noise hides nothing."""
    plan: dict[str, Any] = {"examples": examples, "batch_size": 512, "epochs": 15, "delta": 1e-5}
    if epsilon is None:
        return hg.dp_sgd(**plan, clip=30.0, noise_multiplier=1e-3)
    return hg.dp_sgd(**plan, clip=1.0, epsilon=epsilon)


def mnist(data: hg.datasets.Dataset, epsilon: float | None, kind: str) -> dict[str, Any]:
    """One run with canaries: what they prove, and attacks on what the model says."""
    # Not the test set: other people wrote it, which attacks find too.
    order = np.random.default_rng(0).permutation(len(data.train[0]))
    train, others = (
        tuple(part[rows] for part in data.train) for rows in np.split(order, [-ATTACKED])
    )
    m, model = mechanism(epsilon, len(train[0])), recipes.mnist
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = hg.train(
            model.loss,
            model.init(0),
            train,
            m,
            optimizer=optax.sgd(RATES[epsilon]),
            directory=folder,
            audit=hg.audit.Canaries(CANARIES, kind=kind),
        )
        places = json.loads((Path(folder) / "canaries.json").read_text())["places"]
    trained = time.perf_counter() - begun
    made: dict[str, Any] = {
        "audit": run.audit.to_dict(),
        "accuracy": recipes.accuracy(model, run.params, *data.test),
        "trained": trained,
    }
    if kind == "gradient":
        plain = np.setdiff1d(np.arange(len(train[0])), places)
        members = np.random.default_rng(1).choice(plain, ATTACKED, replace=False)
        begun = time.perf_counter()
        found = hg.audit.membership(
            _outputs(run.params, *(part[members] for part in train)),
            _outputs(run.params, *others),
            attacks=ATTACKS,
        )
        made |= {"attacks": found.to_dict(), "attacked": time.perf_counter() - begun}
    return made


def _outputs(params: Any, images: np.ndarray, labels: np.ndarray) -> hg.audit.Outputs:
    logits = jax.jit(jax.vmap(recipes.mnist.logits, (None, 0)))
    parts = [np.asarray(logits(params, images[i : i + 500])) for i in range(0, len(images), 500)]
    return hg.audit.Outputs(logits=np.concatenate(parts), labels=labels)


def fashion(folder: Path, private: bool) -> dict[str, Any]:
    """Shadow models that are each other's targets, trained with epsilon 8 or without."""
    x, y, test = _fashion_data(folder)
    begun = time.perf_counter()
    if private:
        m = hg.dp_sgd(
            examples=POOL // 2, batch_size=500, epochs=30, clip=1.0, delta=1e-5, epsilon=8.0
        )
        shadows = hg.audit.train_private_shadows(
            _loss, _init, (x, y), optimizer=optax.sgd(1.0), mechanism=m, shadows=SHADOWS
        )
    else:
        shadows = hg.audit.train_shadows(
            _loss,
            _init,
            (x, y),
            optimizer=optax.adam(1e-3),
            batch_size=100,
            epochs=40,
            shadows=SHADOWS,
        )
    jax.block_until_ready(shadows.params)
    trained = time.perf_counter() - begun
    said, inside = shadows.statistics(_said, (x, y)), shadows.members
    sure = -np.logaddexp(0, -said.astype(float))
    scores = {
        "threshold": said,
        "LiRA, online": hg.audit.lira_leave_one_out(said, inside, fixed_variance=True),
        "LiRA, offline": hg.audit.lira_leave_one_out(
            said, inside, attack="offline", fixed_variance=True
        ),
        "RMIA, online": hg.audit.rmia_leave_one_out(sure, inside),
        "RMIA, offline": hg.audit.rmia_leave_one_out(sure, inside, attack="offline"),
    }
    rocs = {name: hg.audit.Roc.of(s[inside], s[~inside]) for name, s in scores.items()}
    right = shadows.statistics(_right, (x, y))
    return {
        "train": float(right[inside].mean()),
        "test": float(shadows.statistics(_right, test).mean()),
        "trained": trained,
        "rocs": {
            name: [roc.auc, roc.true_positives_at(0.01), roc.true_positives_at(0.001)]
            for name, roc in rocs.items()
        },
    }


def _fashion_data(folder: Path) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    def images(name: str) -> np.ndarray:
        packed = (folder / f"{name}-images-idx3-ubyte.xz").read_bytes()
        raw = idx.parse_idx(lzma.decompress(packed), name)
        return raw.reshape(len(raw), -1).astype(np.float32) / 255

    def labels(name: str) -> np.ndarray:
        return idx.read_idx(folder / f"{name}-labels-idx1-ubyte.gz").astype(np.int32)

    rows = np.random.default_rng(0).permutation(60_000)[:POOL]
    test = images("t10k")[:2000], labels("t10k")[:2000]
    return images("train")[rows], labels("train")[rows], test


def _init(key: Any) -> dict[str, Any]:
    one, two = jax.random.split(key)
    return {
        "w1": jax.random.normal(one, (784, 256)) * np.sqrt(2 / 784),
        "b1": jnp.zeros(256),
        "w2": jax.random.normal(two, (256, 10)) / 16,
        "b2": jnp.zeros(10),
    }


def _logits(params: Any, x: Any) -> Any:
    return jax.nn.relu(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def _loss(params: Any, x: Any, y: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(_logits(params, x), y)


def _said(params: Any, x: Any, y: Any) -> Any:
    return hg.audit.label_logit(_logits(params, x), y)


def _right(params: Any, x: Any, y: Any) -> Any:
    return (_logits(params, x).argmax() == y).astype(jnp.float32)


def report(found: dict[str, Any], command: str) -> str:
    """The tables as Markdown."""
    modules = {"hushgrad": hg, "JAX": jax, "optax": optax, "numpy": np}
    versions = ", ".join(f"{name} {module.__version__}" for name, module in modules.items())
    lines = [
        "# Audits: what attackers get",
        f"`{command}`",
        f"{versions}, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"{jax.default_backend()}. Seconds are of one run, on a machine that had other work too.",
        "## MNIST: attacks on the model's outputs",
        "The recipe's CNN on 50,000 images, 15 epochs, batch 512, delta 1e-5; one run each. "
        f"{ATTACKED:,} of them that were no canaries against {ATTACKED:,} others of MNIST's "
        "training set; the test set was written by other people, whom trained attacks tell apart "
        "at any epsilon. An attack's *advantage* "
        "is its true less its false positives at the best threshold, found on the same scores; "
        "*proved* is the largest epsilon that any of them proves, at 95 % confidence, "
        "corrected for all attacks and thresholds.",
        _attacks(found),
        "## MNIST: canaries in one run",
        f"{CANARIES:,} canaries took the place of as many images, half of them empty. *Proved* is "
        "a lower bound on epsilon at delta 1e-5 with 95 % confidence (Steinke et al. 2023), "
        "*trade-off* the same if the mechanism's trade-off is like a Gaussian's (Mahloujifar et "
        "al. 2024).",
        _canaries(found),
        "## Fashion-MNIST: shadow models",
        f"A 784-256-10 perceptron on 5,000 images, {SHADOWS} of them on halves of {POOL:,}; each "
        "in turn the target of the others. *TPR* are true positives at 1 % and 0.1 % false "
        "positives: chance is 1 % and 0.1 %.",
        _shadows(found),
    ]
    return "\n\n".join(lines) + "\n"


def _name(epsilon: float | None) -> str:
    return "none" if epsilon is None else f"epsilon {epsilon:g}"


def _attacks(found: dict[str, Any]) -> str:
    rows = [
        f"| privacy | test accuracy | {' | '.join(ATTACKS)} | best AUC | proved | seconds |",
        "|---" * (len(ATTACKS) + 5) + "|",
    ]
    for epsilon in EPSILONS:
        one = found[f"gradient {_name(epsilon)}"]
        attacks = one["attacks"]["attacks"]
        gains = " | ".join(f"{a['advantage']:.3f}" for a in attacks)
        best = max(a["auc"] for a in attacks)
        rows.append(
            f"| {_name(epsilon)} | {one['accuracy']:.1%} | {gains} | {best:.3f} "
            f"| {one['attacks']['epsilon']:.3f} | {one['attacked']:.0f} |"
        )
    return "\n".join(rows)


def _canaries(found: dict[str, Any]) -> str:
    rows = [
        "| privacy | canaries | promised | proved | trade-off | guesses right | seconds with "
        "training |",
        "|---|---|---|---|---|---|---|",
    ]
    for epsilon in EPSILONS:
        for kind in ("gradient", "mislabelled"):
            one = found[f"{kind} {_name(epsilon)}"]
            proved, promised = one["audit"]["proved"], one["audit"]["promised"]
            rows.append(
                f"| {_name(epsilon)} | {kind} | {promised:.4g} | {proved['epsilon']:.3f} "
                f"| {proved['epsilon_trade_off']:.3f} | {proved['correct']} of {proved['guesses']} "
                f"| {one['trained']:.0f} |"
            )
    return "\n".join(rows)


def _shadows(found: dict[str, Any]) -> str:
    rows = [
        "| privacy | attack | AUC | TPR at 1 % | TPR at 0.1 % |",
        "|---|---|---|---|---|",
    ]
    told = []
    for name in ("none", "epsilon 8"):
        one = found[f"fashion {name}"]
        for attack, (auc, percent, permille) in one["rocs"].items():
            rows.append(f"| {name} | {attack} | {auc:.3f} | {percent:.2%} | {permille:.2%} |")
        told.append(
            f"Privacy {name}: accuracy {one['train']:.1%} on what was trained on and "
            f"{one['test']:.1%} on test images; {SHADOWS} models in {one['trained']:.0f} s."
        )
    return "\n".join(rows) + "\n\n" + " ".join(told)


def main() -> None:
    """Trains and attacks what is missing, and writes the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/audit"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/audit.md"))
    args = parser.parse_args()
    data = hg.datasets.load_mnist(args.data_dir / "mnist")
    args.runs.mkdir(parents=True, exist_ok=True)
    kept = args.runs / "found.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    works: dict[str, Any] = {
        f"{kind} {_name(epsilon)}": lambda e=epsilon, k=kind: mnist(data, e, k)
        for epsilon in EPSILONS
        for kind in ("gradient", "mislabelled")
    }
    for name, private in (("none", False), ("epsilon 8", True)):
        works[f"fashion {name}"] = lambda p=private: fashion(args.data_dir / "fashion_mnist", p)
    for name, work in works.items():
        if name not in found:
            found[name] = work()
            kept.write_text(json.dumps(found, indent=1))
            jax.clear_caches()
            print(f"{name}: {json.dumps(found[name])[:300]}", flush=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(report(found, "python examples/audit.py --data-dir DATA"))
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()
