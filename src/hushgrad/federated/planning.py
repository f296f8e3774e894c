"""How many clients a round needs, where noise grows with them."""

from __future__ import annotations

import dataclasses

from hushgrad import accounting
from hushgrad._check import fraction, positive, whole
from hushgrad.accounting import poisson_gaussian
from hushgrad.errors import InputError

__all__ = ["CohortPlan", "clients_for_budget"]


@dataclasses.dataclass(frozen=True)
class CohortPlan:
    """A cohort that keeps a budget at the noise in the mean that was tried out.

    Attributes:
      clients_per_round: expected number.
      noise_multiplier: with them: the standard deviation in the mean is as it was.
      epsilon: of all rounds, at the delta asked for.
    """

    clients_per_round: int
    noise_multiplier: float
    epsilon: float


def clients_for_budget(
    *,
    users: int,
    noise_multiplier: float,
    clients_per_round: int,
    rounds: int,
    epsilon: float,
    delta: float,
    accountant: str = "pld",
) -> CohortPlan:
    """The fewest clients per round that keep a budget, where noise grows with the cohort.

    ```python
    hg.federated.clients_for_budget(users=3383, noise_multiplier=0.5, clients_per_round=50,
                                    rounds=100, epsilon=2.0, delta=1e-5).clients_per_round
    ```

    Try out with few clients, without private data, how much noise in the mean a model stands; then
    take so many more clients, and so much more noise, that the mean is as good and
    the budget is kept (McMahan et al. 2018). Cohorts are Poisson samples.

    Args:
      users: how many there are in all.
      noise_multiplier: of the trial.
      clients_per_round: of the trial.
      rounds: that will be made.
      epsilon: to be kept.
      delta: at which.
      accountant: "pld" (tight) or "rdp".

    Raises:
      InputError: if an argument is out of range, or not even all users keep the budget.
    """
    users, rounds = whole("users", users), whole("rounds", rounds)
    base = whole("clients_per_round", clients_per_round)
    noise = positive("noise_multiplier", noise_multiplier)
    epsilon, delta = positive("epsilon", epsilon), fraction("delta", delta)
    if base > users:
        raise InputError(f"clients_per_round must be at most users={users}, got {base}")

    def spent(count: int) -> float:
        event = poisson_gaussian(count / users, noise * count / base, rounds)
        return accounting.epsilon(event, delta, accountant)

    if spent(users) > epsilon:
        raise InputError(
            f"epsilon={epsilon:g} cannot be kept: all {users} users in each of {rounds} rounds "
            f"cost {spent(users):.4g}; take fewer rounds, more noise or a larger epsilon"
        )
    low, high = 0, users  # low costs too much, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if spent(middle) <= epsilon else (middle, high)
    return CohortPlan(high, noise * high / base, spent(high))
