"""What the noisy sums are used for: which errors correlated noise is to keep small."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from hushgrad._check import whole
from hushgrad.errors import InputError

__all__ = ["Workload"]


@dataclasses.dataclass(frozen=True)
class Workload:
    """The iterates of SGD: what a step's noise does to the parameters, now and later.

    ```python
    hg.noise.Workload()                                 # prefix sums: SGD with one learning rate
    hg.noise.Workload(momentum=0.9, cooldown_from=0.75, cooldown_to=0.05)
    ```

    The parameters after step t hold the noise of steps 1..t with weights that follow from momentum
    and learning rate. The first learning rate is 1; from the share `cooldown_from` of the steps on
    it falls linearly, to the share `cooldown_to` of it in the last step.

    Raises:
      InputError: if momentum is not in [0, 1) or a share not in [0, 1].
    """

    momentum: float = 0.0
    cooldown_from: float = 1.0
    cooldown_to: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must be in [0, 1), got {self.momentum!r}")
        for name in ("cooldown_from", "cooldown_to"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be in [0, 1], got {getattr(self, name)!r}")

    def rates(self, steps: int) -> Float[np.ndarray, " steps"]:
        """The learning rate of each step over the first."""
        first = round(self.cooldown_from * whole("steps", steps))
        rates, falling = np.ones(steps), steps - first
        if falling:
            rates[first:] = 1 - (1 - self.cooldown_to) * np.arange(1, falling + 1) / falling
        return rates

    def matrix(self, steps: int) -> Float[np.ndarray, "steps steps"]:
        """Row t: the weights of the steps' noises in the parameters after step t."""
        lags = np.arange(steps)[:, None] - np.arange(steps)
        held = np.where(lags >= 0, self.momentum ** np.maximum(lags, 0).astype(float), 0.0)
        return np.cumsum(self.rates(steps)[:, None] * held, axis=0)
