"""`python -m tests.faults --trials 200`: faults at random, many times."""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.faults.harness import FAULTS, Trial, unbroken


def main() -> None:
    """Runs the trials, two at a time, and tells which failed and how to repeat them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--at-once", type=int, default=2)
    arguments = parser.parse_args()
    began, counts, failures = time.monotonic(), collections.Counter(), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        want = unbroken(folder / "unbroken")

        def one(number: int) -> tuple[str, list[str], str]:
            rng = random.Random(f"{arguments.seed}-{number}")
            fault = rng.choice(FAULTS)
            trial = Trial(folder / str(number), rng, want)
            try:
                fault(trial)
                trial.finish()
                return fault.__name__, trial.told, ""
            except Exception:
                return fault.__name__, trial.told, traceback.format_exc()

        with concurrent.futures.ThreadPoolExecutor(arguments.at_once) as pool:
            for number, (fault, told, error) in enumerate(pool.map(one, range(arguments.trials))):
                counts[fault] += 1
                if error:
                    failures += 1
                    print(f"trial {number} ({fault}) failed: {told}\n{error}", flush=True)
    met = ", ".join(f"{fault}: {count}" for fault, count in sorted(counts.items()))
    print(
        f"{arguments.trials} trials with seed {arguments.seed} ({met}): {failures} failed; "
        f"{time.monotonic() - began:.0f} s"
    )
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
