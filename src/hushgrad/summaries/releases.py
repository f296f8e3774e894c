"""What is released of a table's records, what that costs together, and how it is told."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence

import dp_accounting

from hushgrad import accounting
from hushgrad.mechanism import Mechanism
from hushgrad.summaries.histograms import Histograms

__all__ = ["Releases"]

_WIDTH = 78


@dataclasses.dataclass(frozen=True)
class Releases:
    """All that a table's training releases of its records.

    Attributes:
      training: of the network.
      histograms: from which bounds were read, if any were estimated.
    """

    training: Mechanism
    histograms: Histograms | None = None

    @property
    def event(self) -> dp_accounting.DpEvent:
        """Both, in `dp_accounting`'s language."""
        if self.histograms is None:
            return self.training.event
        return dp_accounting.ComposedDpEvent([self.histograms.event, self.training.event])

    @property
    def epsilon(self) -> float:
        """Of both together, at the training's delta (PLD)."""
        relation = self.training.neighbouring_relation
        return accounting.epsilon(self.event, self.training.delta, relation=relation)

    def statement(self, public: Sequence[str], *remarks: str, seeded: bool) -> str:
        """What they promise together, in plain words.

        Args:
          public: what was taken for known, as words.
          remarks: paragraphs of whoever made them.
          seeded: secrets came from a seed.
        """
        paragraphs = [_wrap(text) for text in (f"Taken as public: {'; '.join(public)}.", *remarks)]
        if self.histograms is not None:
            estimate = (
                f"Two releases were made of these {self.training.examples:,} records: noisy "
                f"histograms of {self.histograms.columns:,} columns (Gaussian noise with "
                f"multiplier {self.histograms.noise_multiplier:.6g}), from which what was not "
                "declared of them was read, and the training, told of below by itself."
            )
            total = (
                f"For both together, composed, at delta = {self.training.delta:g}:\n"
                f"    epsilon = {self.epsilon:.4f}   PLD accounting, the tight bound"
            )
            paragraphs = [_wrap(estimate), total, *paragraphs]
        return "\n\n".join([*paragraphs, accounting.statement(self.training, seeded=seeded)])


def _wrap(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_on_hyphens=False)
