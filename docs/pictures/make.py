"""Makes the documentation's pictures, each for light and for dark pages.

    python docs/pictures/make.py               # all of them, in about a minute
    python docs/pictures/make.py clipping      # one

What they show is computed by hushgrad; noise has fixed keys, so that they stay as they are.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import optax
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

import hushgrad as hg

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
DELTA = 1e-5
# Ink, faint ink, and colours that a colour-blind reader can tell apart, by page.
THEMES = {
    "": ("#1f2328", "#8b929a", ("#1f5fbf", "#c2410c", "#0f766e", "#7e22ce")),
    "-dark": ("#e6e6ea", "#83899a", ("#7ab0ff", "#ff9a5c", "#4fd1c0", "#cf9cff")),
}


def colour(number: int) -> str:
    """One of the page's colours."""
    return f"C{number}"


def faint() -> str:
    """For what matters less."""
    return mpl.rcParams["grid.color"]


def settings(ink: str, faint: str, colours: tuple[str, ...]) -> dict[Any, Any]:
    """Of matplotlib, for one kind of page."""
    edges = dict.fromkeys(
        ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), ink
    )
    return {
        **edges,
        "axes.prop_cycle": cycler(color=colours),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.size": 11,
        "grid.alpha": 0.4,
        "grid.color": faint,
        "legend.frameon": False,
        "savefig.transparent": True,
        "svg.fonttype": "path",  # the same letters for every reader
        "svg.hashsalt": "hushgrad",
    }


def two_numbers() -> tuple[Callable[..., jnp.ndarray], dict[str, jnp.ndarray], tuple[np.ndarray]]:
    """A loss whose gradients are points in the plane: those of a batch."""
    rng = np.random.default_rng(4)
    points = np.concatenate([rng.normal((0.5, 0.3), 0.5, (11, 2)), [[2.6, 1.5]]])

    def loss(params: dict[str, jnp.ndarray], point: jnp.ndarray) -> jnp.ndarray:
        return params["w"] @ point

    return loss, {"w": jnp.zeros(2)}, (points.astype(np.float32),)


def clipping() -> Figure:
    """Gradients of one batch, before and after."""
    loss, params, (points,) = two_numbers()
    clipped = hg.clipped_grad(loss, clip=1.0)
    after = np.array([clipped(params, point[None]).grads["w"] for point in points])
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.1), layout="constrained", sharey=True)
    for axis, arrows, title in (
        (axes[0], points, "each example's gradient"),
        (axes[1], after, "clipped to norm 1"),
    ):
        _plane(axis, title)
        for number, (x, y) in enumerate(arrows):
            last = number == len(arrows) - 1
            _arrow(axis, (0, 0), (x, y), colour(1 if last else 0), 2.2 if last else 1.3)
    axes[0].annotate("one unlike\nthe others", points[-1], (1.72, 1.72), color=colour(1))
    return figure


def _plane(axis: Axes, title: str) -> None:
    axis.add_patch(Circle((0, 0), 1, fill=False, linestyle="--", color=faint()))
    axis.set(xlim=(-1.3, 2.9), ylim=(-1.2, 2.2), aspect="equal", title=title)
    axis.set(xticks=[-1, 0, 1, 2], yticks=[-1, 0, 1, 2])
    axis.grid()


def _arrow(
    axis: Axes, start: tuple[float, float], end: tuple[float, float], ink: str, width: float
) -> None:
    arrow = {"arrowstyle": "->", "color": ink, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", end, start, arrowprops=arrow)


def noise() -> Figure:
    """The released sum, many times over, with one example and without."""
    loss, params, (points,) = two_numbers()
    clipped = hg.clipped_grad(loss, clip=1.0)
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.3), layout="constrained", sharey=True)
    for axis, multiplier in zip(axes, (0.3, 2.0), strict=True):
        noised = hg.noise.gaussian(stddev=multiplier)
        for number, batch in enumerate((points[:-1], points)):
            total = clipped(params, batch).grads
            keys = np.random.default_rng(number).integers(0, 2**32, (200, 8), np.uint32)
            released = jax.vmap(lambda key, t, n: n.update(t, (), key=key)[0]["w"], (0, None, None))
            cloud = np.asarray(jax.jit(released, static_argnums=2)(keys, total, noised))
            label = "with that example" if number else "without"
            axis.scatter(*cloud.T, s=9, alpha=0.6, color=colour(number), label=label, linewidths=0)
        axis.set(title=f"noise multiplier {multiplier:g}", aspect="equal")
        axis.set(xlim=(-4, 9), ylim=(-2, 12), xlabel="first coordinate of the sum")
        axis.grid()
    axes[0].set_ylabel("second coordinate")
    axes[0].legend(loc="upper left", markerscale=2)
    return figure


def accumulation() -> Figure:
    """Epsilon as the steps go by."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.9), layout="constrained")
    plan: dict[str, Any] = {"examples": 60_000, "batch_size": 256, "epochs": 30, "delta": DELTA}
    shown = np.unique(np.geomspace(20, 7031, 24).astype(int))
    for z in (0.7, 1.0, 1.5):
        m = hg.dp_sgd(**plan, noise_multiplier=z)
        left.plot(shown, [m.epsilon(steps=int(n)) for n in shown], label=f"noise {z:g}")
    left.set(xlabel="steps", ylabel=f"epsilon at delta {DELTA:g}", ylim=(0, None))
    left.set_title("batches of 256 out of 60,000, tight bound")
    left.legend()
    m = hg.dp_sgd(**plan, noise_multiplier=1.0)
    for name, label in (("pld", "tight bound (PLD)"), ("rdp", "RDP")):
        found = [m.epsilon(steps=int(n), accountant=name) for n in shown]
        right.plot(shown, found, label=label, color=colour(1 if name == "pld" else 3))
    sums = [hg.accounting.bounds(m.after(int(n)), DELTA) for n in shown]
    naive = [next(b.epsilon for b in found if "advanced" in b.name.lower()) for found in sums]
    right.plot(shown, naive, "--", color=faint(), label="advanced composition, 2010")
    right.set(xlabel="steps", yscale="log", title="noise 1, by three proofs")
    right.legend()
    for axis in (left, right):
        axis.grid()
    return figure


def attacker() -> Figure:
    """What any attack can reach, by epsilon."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    shares = np.geomspace(1e-4, 1, 201)
    for epsilon in (0.5, 1.0, 3.0, 8.0):
        m = hg.dp_sgd(
            examples=60_000, batch_size=256, epochs=15, clip=1.0, delta=DELTA, epsilon=epsilon
        )
        found = 1 - m.trade_off(list(shares)).false_negative
        left.plot(shares, found, label=f"epsilon {epsilon:g}")
        right.loglog(shares, found)
    for axis in (left, right):
        axis.plot(shares, shares, "--", color=faint(), label="guessing")
        axis.set(xlabel="share of outsiders falsely accused", ylim=(1e-4, 1.05))
        axis.grid()
    left.set_ylabel("share of members found, at most")
    left.legend(loc="lower right")
    right.set_title("the same on logarithmic axes")
    return figure


def digits() -> Figure:
    """A private run on the bundled digits: how well it does, and what is spent."""
    data = hg.datasets.load_digits()
    (x, y), (tx, ty) = data.train, data.test
    x, tx = x.reshape(len(x), -1), tx.reshape(len(tx), -1)

    def loss(params: dict[str, jnp.ndarray], image: jnp.ndarray, label: jnp.ndarray) -> jnp.ndarray:
        scores = image @ params["w"] + params["b"]
        return optax.losses.softmax_cross_entropy_with_integer_labels(scores, label)

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.7), layout="constrained")
    for epsilon in (8.0, 3.0, 1.0):
        m = hg.dp_sgd(
            examples=len(x), batch_size=256, steps=60, clip=1.0, delta=1e-4, epsilon=epsilon
        )
        steps, accuracy = _trained(loss, m, (x, y), (tx, ty))
        left.plot(steps, accuracy, label=f"epsilon {epsilon:g}")
        spent = [m.epsilon(steps=n) if n else 0.0 for n in steps]
        right.plot(steps, spent, label=f"noise multiplier {m.noise_multiplier:.2f}")
    left.set(xlabel="steps", ylabel="test accuracy, %", ylim=(0, 100))
    right.set(xlabel="steps", ylabel="epsilon spent, delta 1e-4", ylim=(0, None))
    for axis in (left, right):
        axis.grid()
        axis.legend()
    return figure


def _trained(
    loss: Callable[..., jnp.ndarray],
    m: hg.Mechanism,
    data: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
) -> tuple[list[int], list[float]]:
    """Steps and test accuracies of one run; seeded, which a picture may be."""
    images, labels = test
    steps, scores = [0], [100.0 * float(np.mean(labels == 0))]

    def note(progress: hg.Progress) -> None:
        found = np.argmax(images @ progress.params["w"] + progress.params["b"], axis=1)
        steps.append(progress.step)
        scores.append(100.0 * float(np.mean(found == labels)))

    params = {"w": jnp.zeros((64, 10)), "b": jnp.zeros(10)}
    options: dict[str, Any] = {"optimizer": optax.sgd(1.0), "seed": 1, "callback": note}
    with tempfile.TemporaryDirectory() as folder:
        hg.train(loss, params, data, m, directory=folder, **options)
    return steps, scores


def peers() -> Figure:
    """One private gradient, over hushgrad's time for it: from docs/results/steps.md."""
    text = (RESULTS / "steps.md").read_text()
    table = text.split("| ms |", 1)[1]
    lines = [line for line in table.splitlines()[2:] if "|" in line]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    figure, axis = plt.subplots(figsize=(9, 3.9), layout="constrained")
    names = []
    for place, row in enumerate(reversed(rows)):
        ours, jaxp = float(row[1]), float(row[3])
        opacus = [float(cell) for cell in row[5:9] if cell != "-"]
        others = [jaxp, min(opacus) if opacus else None]
        for number, other in enumerate(others):
            if other is not None:
                height = place + 0.2 - 0.4 * number
                axis.barh(height, other / ours, 0.36, color=colour(number))
                text = f" {other / ours:,.2f}" if other / ours < 10 else f" {other / ours:,.0f}"
                axis.text(other / ours, height, text, va="center", fontsize=9)
        short = re.sub(r", batch.*|, length.*| 32x32x3.*", "", row[0])
        names.append(f"{short}\n{ours:,.0f} ms")
    axis.axvline(1, color=faint(), linestyle="--")
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.set(xscale="log", xlim=(0.5, 4000), xlabel="time of a private gradient, hushgrad = 1")
    axis.legend(
        [Rectangle((0, 0), 1, 1, color=colour(n)) for n in (0, 1)],
        ["JAX-Privacy 2.0.0", "Opacus 1.6.0, best of four modes"],
        loc="upper right",
    )
    return figure


def engine() -> Figure:
    """Sites and taps of a network of two layers."""
    figure, axis = plt.subplots(figsize=(9, 4.2), layout="constrained")
    axis.set(xlim=(0, 21.6), ylim=(0.4, 9))
    axis.axis("off")
    for x, width, label in ((0.2, 1.8, "x"), (6.4, 2.8, "h = relu(·)"), (13.2, 2, "loss")):
        _box(axis, (x, 4.2), width, label, colour(0))
    for number, x in ((1, 3.0), (2, 10.0)):
        _box(axis, (x, 4.2), 2.0, f"· W{number}", colour(1))
        _box(axis, (x, 1.4), 2.0, f"W{number}", colour(3), "held still")
        _arrow(axis, (x + 1, 2.8), (x + 1, 4.1), colour(3), 1.3)
        axis.text(x + 1, 5.75, "site", ha="center", color=colour(1))
        _box(axis, (x + 1.4, 7.2), 2.6, f"tap {number}: + 0", colour(2))
        _arrow(axis, (x + 2.7, 7.1), (x + 2.7, 4.95), colour(2), 1.3)
    for start, end in ((2.1, 2.9), (5.1, 6.3), (9.3, 9.9), (12.1, 13.1)):
        _arrow(axis, (start, 4.85), (end, 4.85), faint(), 1.5)
    for start, end in ((14.2, 12.7), (12.7, 5.7)):
        arrow: dict[str, Any] = {
            "arrowstyle": "->",
            "color": colour(2),
            "linestyle": ":",
            "linewidth": 1.6,
        }
        arrow["connectionstyle"] = "arc3,rad=-0.35" if start > 13 else "arc3,rad=-0.3"
        axis.annotate("", (end, 4.6), (start, 4.1), arrowprops=arrow)
    axis.text(7.6, 2.5, "one backward pass", ha="center", color=colour(2), fontsize=9)
    axis.text(16.0, 6.0, "A: what went into a site\nG: what came back to its tap", va="bottom")
    formulas = "norm²  =  Σ (A Aᵀ) ∘ (G Gᵀ)\n\nsum    =  Σ c · Aᵀ G"
    axis.text(16.0, 2.4, formulas, va="bottom", family="monospace", fontsize=9)
    return figure


def _box(
    axis: Axes, corner: tuple[float, float], width: float, text: str, ink: str, below: str = ""
) -> None:
    style = "round,pad=0.05,rounding_size=0.2"
    box = FancyBboxPatch(
        corner, width, 1.3, boxstyle=style, fill=False, edgecolor=ink, linewidth=1.6
    )
    axis.add_patch(box)
    axis.text(corner[0] + width / 2, corner[1] + 0.65, text, ha="center", va="center")
    if below:
        axis.text(corner[0] + width / 2, corner[1] - 0.25, below, ha="center", va="top", fontsize=9)


PICTURES = {
    made.__name__: made for made in (clipping, noise, accumulation, attacker, digits, peers, engine)
}


def main() -> None:
    """Makes those that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*PICTURES, []], help="all by default")
    for name in parser.parse_args().names or PICTURES:
        for suffix, theme in THEMES.items():
            with mpl.rc_context(settings(*theme)):
                figure = PICTURES[name]()
                file = HERE / f"{name}{suffix}.svg"
                figure.savefig(file, metadata={"Date": None})
                plt.close(figure)
                print(file)


if __name__ == "__main__":
    mpl.use("agg")
    main()
