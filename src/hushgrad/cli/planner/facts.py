"""What the page shows of a plan; nothing of how it looks."""

from __future__ import annotations

import dataclasses
import math
import warnings

from hushgrad import accounting
from hushgrad.accounting import Bound
from hushgrad.mechanism import Mechanism
from hushgrad.planning import dp_sgd

__all__ = ["Facts", "Settings", "code", "facts", "noise_for", "ways"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the sliders set.

    Attributes:
      examples: number of records.
      batch_size: expected.
      epochs: passes over the data, whole ones.
      noise_multiplier: noise over clip.
      delta: at which epsilon is told.
    """

    examples: int = 60_000
    batch_size: int = 256
    epochs: int = 15
    noise_multiplier: float = 1.1
    delta: float = 1e-5

    def mechanism(self) -> tuple[Mechanism, list[str]]:
        """DP-SGD with these settings, and what there is to say against them."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            made = dp_sgd(**dataclasses.asdict(self), clip=1.0)
        return made, list(dict.fromkeys(str(warning.message) for warning in caught))


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a plan at once.

    Attributes:
      epsilon: tight, at the settings' delta.
      steps: of training.
      sampling_rate: chance of an example to be in a batch.
      noise_to_batch: standard deviation of the noise on a mean gradient, in clips.
      success: how often any attacker is right, at most, who is shown what training releases and has
        to say whether one example was in it, where both are as likely: (1 + delta(0)) / 2, by the
        tight accountant.
      certainty: how sure an attacker can become who held it for as likely as not, but for delta.
      warnings: what there is to say against the settings.
    """

    epsilon: float
    steps: int
    sampling_rate: float
    noise_to_batch: float
    success: float
    certainty: float
    warnings: list[str]


def facts(settings: Settings) -> Facts:
    """What a plan costs and hides.

    Raises:
      InputError: if the settings are no plan.
    """
    m, said = settings.mechanism()
    epsilon = m.epsilon()
    return Facts(
        epsilon=epsilon,
        steps=m.steps,
        sampling_rate=m.sampling_rate,
        noise_to_batch=m.noise_multiplier / m.batch_size,
        success=(1 + min(1.0, accounting.delta(m, 0.0))) / 2,
        certainty=1 / (1 + math.exp(-epsilon)),
        warnings=said,
    )


def ways(settings: Settings) -> list[Bound]:
    """Epsilon by every way of accounting, from the crudest to the tightest."""
    return accounting.bounds(settings.mechanism()[0], settings.delta)


def noise_for(settings: Settings, epsilon: float) -> float:
    """The noise multiplier that keeps epsilon, all else as it is; rounded up to four decimals.

    Raises:
      InputError: if epsilon is not positive, or no noise is enough.
    """
    given = {k: v for k, v in dataclasses.asdict(settings).items() if k != "noise_multiplier"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        noise = dp_sgd(**given, clip=1.0, epsilon=epsilon).noise_multiplier
    return math.ceil(noise * 1e4) / 1e4


def code(settings: Settings) -> dict[str, str]:
    """The same plan to copy: for Python, for Keras, for the command line."""
    noise, delta = repr(settings.noise_multiplier), f"{settings.delta:g}"
    return {
        "Python": (
            "import hushgrad as hg\n\n"
            "m = hg.dp_sgd(\n"
            f"    examples={settings.examples:_},\n"
            f"    batch_size={settings.batch_size},\n"
            f"    epochs={settings.epochs},\n"
            "    clip=1.0,\n"
            f"    delta={delta},\n"
            f"    noise_multiplier={noise},\n"
            ")\n"
            "print(m.statement())\n"
        ),
        "Keras": (
            "import hushgrad as hg\n"
            "import hushgrad.keras  # before keras, so that it runs on JAX\n\n"
            "private = hg.keras.privatize(\n"
            f"    model, clip=1.0, noise_multiplier={noise}, delta={delta}\n"
            ")\n"
            'private.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])\n'
            f"{_by_keras(settings)}"
            f"private.fit(x, y, batch_size={settings.batch_size}, epochs={settings.epochs})\n"
            "print(private.privacy_statement())\n"
        ),
        "Command line": (
            f"hushgrad epsilon --examples {settings.examples} --batch-size {settings.batch_size} "
            f"\\\n    --noise-multiplier {noise} --epochs {settings.epochs} --delta {delta}\n"
        ),
    }


def _by_keras(settings: Settings) -> str:
    """What to know of an epoch that does not divide into batches: Keras rounds it up."""
    per_epoch = math.ceil(settings.examples / settings.batch_size)
    steps, m = per_epoch * settings.epochs, settings.mechanism()[0]
    if steps == m.steps:
        return ""
    epsilon = dataclasses.replace(m, steps=steps).epsilon()
    return f"# Keras rounds an epoch up to {per_epoch:,} steps: epsilon {epsilon:.4g}\n"
