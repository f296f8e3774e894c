"""What one run holds of a budget, and how it charges its steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from hushgrad.accounting import to_plain
from hushgrad.errors import BudgetError
from hushgrad.mechanism import Guarantee
from hushgrad.training.journal import Row

__all__ = ["Reservation"]

# Steps are charged ahead so that a budget far away is not asked for every one: seconds
# between two charges, at least, and steps ahead, at most.
_SELDOM, _FAR = 0.5, 4096


class Reservation:
    """What one run may spend of a budget; made by `Budget.reserve`.

    Attributes:
      budget: the budget's name.
      run: the run's.
    """

    def __init__(
        self,
        budget: str,
        run: str,
        mechanism: Guarantee,
        holder: str,
        write: Callable[[Callable[[], Iterable[Row]]], None],
        found: Callable[[str], Any],
    ) -> None:
        self.budget, self.run, self._mechanism, self._holder = budget, run, mechanism, holder
        self._journal_write, self._found = write, found
        self._ahead, self._last = 1, -math.inf
        # What holders before this one charged, such as a process that died, they may have
        # released: it is not given back. What others charge later is no leave for this one.
        self._floor = self._through = self.charged

    @property
    def charged(self) -> int:
        """Steps that were charged, some of them perhaps not yet released."""
        return self._found(self.run).charged

    def charge(self, steps: int) -> None:
        """Charges, durably, the first `steps` steps of the run, before the last is released.

        Some steps more are charged with them where steps are quick, so that a budget on
        another machine is not asked for each.

        Raises:
          BudgetError: if the run was closed meanwhile, goes on in another process, or has no
            so many steps; then nothing may be released.
          LedgerError: if it cannot be written; likewise.
        """
        if steps <= self._through:
            return
        if steps > self._mechanism.steps:
            raise BudgetError(
                f"budget {self.budget!r} holds {self._mechanism.steps:,} steps of run "
                f"{self.run!r}, and no step {steps:,}"
            )
        now = time.monotonic()
        quick = now - self._last < _SELDOM
        self._ahead = min(_FAR, 2 * self._ahead) if quick else max(1, self._ahead // 2)
        self._last = now
        through = min(self._mechanism.steps, steps - 1 + self._ahead)
        self._write("charge", through)
        self._through = through

    def finish(self, steps: int) -> None:
        """Ends the run after so many steps: what was charged ahead is given back."""
        if self._found(self.run).status == "open":
            self._write("finish", steps)

    def _write(self, kind: str, steps: int) -> None:
        def rows() -> list[Row]:
            run = self._found(self.run)
            if run.status != "open":
                if kind == "finish" and run.status == "finished":
                    return []
                raise BudgetError(
                    f"run {self.run!r} was closed in budget {self.budget!r}: it may release "
                    "nothing more"
                )
            if run.holder != self._holder:
                raise BudgetError(
                    f"run {self.run!r} of budget {self.budget!r} goes on elsewhere, in "
                    f"{run.directory!r}: two copies of one run must not both release"
                )
            through = max(steps, self._floor)
            spent: list[Row] = []
            if run.charged != through:
                event = to_plain(self._mechanism.after(through).event)
                spent = [("charge", {"run": self.run, "steps": through, "event": event})]
            return [*spent, ("finish", {"run": self.run})] if kind == "finish" else spent

        self._journal_write(rows)
