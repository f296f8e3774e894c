"""The privacy of DP-SGD, in TensorFlow Privacy's words and with its numbers.

`hushgrad.accounting` proves smaller epsilons for the same runs, and its statements tell
what ran; these functions keep what reports already say.
"""

from __future__ import annotations

import enum
import functools
import math
import textwrap
import warnings

import dp_accounting
from scipy import optimize, stats

from hushgrad.errors import HushgradError, InputError

__all__ = [
    "ORDERS",
    "AccountantType",
    "UserLevelDPComputationError",
    "compute_dp_sgd_privacy",
    "compute_dp_sgd_privacy_statement",
]

_WIDTH = 80
# At which the deprecated functions look for the smallest epsilon.
ORDERS = (
    *(1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0, 4.5),
    *range(5, 64),
    *(128, 256, 512),
)


class UserLevelDPComputationError(HushgradError):
    """The search for a user's epsilon did not end."""


class AccountantType(enum.Enum):
    """Which accountant's numbers a statement shows."""

    RDP = "RDP"
    PLD = "PLD"

    def get_accountant(self) -> dp_accounting.PrivacyAccountant:
        """A fresh accountant of this type."""
        if self is AccountantType.RDP:
            return dp_accounting.rdp.RdpAccountant()
        return dp_accounting.pld.PLDAccountant()


def compute_dp_sgd_privacy(
    n: int, batch_size: int, noise_multiplier: float, epochs: float, delta: float
) -> tuple[float, float]:
    """Epsilon of DP-SGD if batches were Poisson samples, by Renyi accounting.

    Deprecated in TensorFlow Privacy, which warns as this does. Use `hg.dp_sgd`, or
    `compute_dp_sgd_privacy_statement`.

    Args:
      n: number of examples.
      batch_size: expected batch size.
      noise_multiplier: noise over clip.
      epochs: passes over the data.
      delta: probability that the promise may fail.

    Returns:
      Epsilon and the Renyi order that it was found at.

    Raises:
      InputError: if the batch is larger than the data.
    """
    warnings.warn(
        "`compute_dp_sgd_privacy` is deprecated. It does not account for doubling of sensitivity "
        "with microbatching, and assumes Poisson subsampling, which is rarely used in practice. "
        "Please use `compute_dp_sgd_privacy_statement`, which provides appropriate context for "
        "the guarantee, or `hushgrad.dp_sgd`, which accounts for the sampling that runs.",
        stacklevel=2,
    )
    if batch_size > n:
        raise InputError(
            f"n must be at least the batch size, got n={n} for batch_size={batch_size}"
        )
    event = _sgd(epochs, noise_multiplier, batch_size / n, math.ceil(epochs * n / batch_size))
    accountant = dp_accounting.rdp.RdpAccountant(list(ORDERS))
    accountant.compose(event)
    epsilon, order = accountant.get_epsilon_and_optimal_order(delta)
    return float(epsilon), float(order)


def compute_dp_sgd_privacy_statement(
    number_of_examples: int,
    batch_size: int,
    num_epochs: float,
    noise_multiplier: float,
    delta: float,
    used_microbatching: bool = True,
    max_examples_per_user: int | None = None,
    accountant_type: AccountantType = AccountantType.RDP,
) -> str:
    """What DP-SGD guarantees, word for word as TensorFlow Privacy says it.

    ```python
    print(compute_dp_sgd_privacy_statement(60_000, 32, 1, 0.5, 1e-5, used_microbatching=False))
    ```

    Args:
      number_of_examples: in the data set.
      batch_size: examples in a batch, however they are grouped.
      num_epochs: passes over the data, fractions too.
      noise_multiplier: noise over clip.
      delta: probability that the promise may fail.
      used_microbatching: several examples were averaged before they were clipped; the
        noise then counts half. TensorFlow Privacy's default; hushgrad's engine never does.
      max_examples_per_user: also what holds for a user with so many examples.
      accountant_type: whose numbers are shown.

    Returns:
      Paragraphs, wrapped at 80 columns.

    Raises:
      InputError: if a number is out of range.
      UserLevelDPComputationError: if the search for a user's epsilon does not end.
    """
    examples, most = number_of_examples, max_examples_per_user
    if batch_size > examples:
        raise InputError(
            f"batch_size must be at most number_of_examples, got {batch_size} for {examples}"
        )
    users = "no bound on number of examples" if most is None else f"at most {most} examples"
    head = _fill(
        f"DP-SGD performed over {examples} examples with {batch_size} examples per iteration, "
        f"noise multiplier {noise_multiplier} for {num_epochs} epochs "
        f"{'with' if used_microbatching else 'without'} microbatching, and {users} per user."
    )
    noise = noise_multiplier / 2 if used_microbatching else noise_multiplier
    run = (num_epochs, noise, delta)
    rate = batch_size / examples
    paragraphs = [
        head,
        _fill(_CHECKPOINTS),
        _example_level(run, rate, accountant_type),
        _fill(_NO_USERS) if most is None else _user_level(run, most, rate, accountant_type),
        _fill(_POISSON),
    ]
    if any("(**)" in paragraph for paragraph in paragraphs):
        paragraphs.append(_fill(_INFINITE))
    return "\n\n".join(paragraphs) + "\n"


def _example_level(run: tuple[float, float, float], rate: float, accountant: AccountantType) -> str:
    found = [_example_epsilon(*run, each, accountant=accountant) for each in (None, rate)]
    return _epsilons(
        f"Example-level DP with add-or-remove-one adjacency at delta = {run[2]} computed "
        f"with {accountant.value} accounting:",
        *found,
    )


def _user_level(
    run: tuple[float, float, float], most: int, rate: float, accountant: AccountantType
) -> str:
    found = [_user_epsilon(*run, most, rate=each, accountant=accountant) for each in (None, rate)]
    return _epsilons(
        f"User-level DP with add-or-remove-one adjacency at delta = {run[2]} computed "
        f"using {accountant.value} accounting and group privacy:",
        *found,
        infinite="    inf (**)",
    )


def _fill(text: str) -> str:
    return textwrap.fill(text, width=_WIDTH)


def _epsilons(head: str, every_epoch: float, sampled: float, *, infinite: str = "") -> str:
    """Two numbers under a heading, with what an infinite one is shown as."""
    once, drawn = (
        infinite if infinite and math.isinf(epsilon) else f"{epsilon:12.3f}"
        for epsilon in (every_epoch, sampled)
    )
    return (
        f"{_fill(head)}\n"
        f"    Epsilon with each example occurring once per epoch:  {once}\n"
        f"    Epsilon assuming Poisson sampling (*):               {drawn}"
    )


_CHECKPOINTS = (
    "This privacy guarantee protects the release of all model checkpoints in addition to the "
    "final model."
)
_NO_USERS = (
    "No user-level privacy guarantee is possible without a bound on the number of examples per "
    "user."
)
_POISSON = (
    "(*) Poisson sampling is not usually done in training pipelines, but assuming that the data "
    "was randomly shuffled, it is believed that the actual epsilon should be closer to this value "
    "than the conservative assumption of an arbitrary data order."
)
_INFINITE = (
    "(**) A finite example-level epsilon implies a finite user-level epsilon at any "
    "`max_examples_per_user`, but because conversion from example-level to user-level DP is not "
    "exact, it is possible for the upper bound on the user-level epsilon to still be infinite."
)


def _sgd(
    epochs: float, noise: float, rate: float | None, steps: int | None = None
) -> dp_accounting.DpEvent:
    """So many Gaussian releases, sampled at a rate or one an epoch."""
    event: dp_accounting.DpEvent = dp_accounting.GaussianDpEvent(float(noise))
    if rate is None:
        return dp_accounting.SelfComposedDpEvent(event, math.ceil(epochs))
    event = dp_accounting.PoissonSampledDpEvent(rate, event)
    return dp_accounting.SelfComposedDpEvent(event, steps or math.ceil(epochs / rate))


def _check(epochs: float, noise: float, delta: float) -> None:
    if not epochs > 0:
        raise InputError(f"num_epochs must be positive, got {epochs!r}")
    if not noise >= 0:
        raise InputError(f"noise_multiplier must be non-negative, got {noise!r}")
    if not 0 <= delta <= 1:
        raise InputError(f"delta must be between 0 and 1, got {delta!r}")


def _example_epsilon(
    epochs: float,
    noise: float,
    delta: float,
    rate: float | None,
    *,
    accountant: AccountantType = AccountantType.RDP,
) -> float:
    _check(epochs, noise, delta)
    event = _sgd(epochs, noise, rate)
    return float(accountant.get_accountant().compose(event).get_epsilon(delta))


def _user_epsilon(
    epochs: float,
    noise: float,
    delta: float,
    most: int,
    *,
    rate: float | None,
    accountant: AccountantType = AccountantType.RDP,
) -> float:
    _check(epochs, noise, delta)
    if most != int(most) or most <= 0:
        raise InputError(f"max_examples_per_user must be a positive whole number, got {most!r}")
    if most == 1:
        return _example_epsilon(epochs, noise, delta, rate, accountant=accountant)
    if rate is None:
        # All of a user's examples move a step's sum by so many clips.
        return _example_epsilon(epochs, noise / most, delta, None, accountant=accountant)
    if accountant is AccountantType.RDP:
        return _by_group_privacy(epochs, noise, delta, most, rate)
    # Ganesh 2024 (arXiv 2401.10294): how many of them are in a batch is binomial.
    drawn = range(most + 1)
    chances = [float(chance) for chance in stats.binom.pmf(drawn, most, rate)]
    event = dp_accounting.dp_event.MixtureOfGaussiansDpEvent(
        float(noise), [float(each) for each in drawn], chances
    )
    event = dp_accounting.SelfComposedDpEvent(event, math.ceil(epochs / rate))
    return float(accountant.get_accountant().compose(event).get_epsilon(delta))


def _by_group_privacy(epochs: float, noise: float, delta: float, most: int, rate: float) -> float:
    """Vadhan 2017, lemma 2.2, at the example's delta that gives the user's.

    With (e, d) for an example, k examples have k * e at d * (exp(k e) - 1) / (exp(e) - 1).
    """

    @functools.cache
    def epsilon(log_delta: float) -> float:
        return _example_epsilon(epochs, noise, math.exp(log_delta), rate)

    def gap(log_delta: float) -> float:
        one = epsilon(log_delta)
        growth = _log_expm1(most * one) - _log_expm1(one) if one else math.log(most)
        return log_delta + growth - math.log(delta)

    if delta == 0 or noise == 0:
        return math.inf
    high = math.log(delta)
    low = high - math.log(10)
    below = gap(low)
    while below > 0:
        # A delta that is too large stays so until it has shrunk by the excess.
        high = low - below
        low = high - math.log(10)
        below = gap(low)
        if not math.isfinite(below):
            return math.inf
    try:
        found, result = optimize.brentq(gap, low - below, high, full_output=True)
    except ValueError as error:
        raise UserLevelDPComputationError(f"no example-level delta was found ({error})") from error
    if not result.converged:
        raise UserLevelDPComputationError("no example-level delta was found")
    return most * epsilon(found)


def _log_expm1(x: float) -> float:
    return x + math.log(-math.expm1(-x))
