"""Toeplitz matrices as power series: errors and their slopes in n log n."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import signal

from hushgrad.noise.workload import Workload

__all__ = ["inverse", "root_coefficients", "squared_error", "turns_norm"]

Series = Float[np.ndarray, " terms"]


def root_coefficients(terms: int) -> Series:
    """Of the square root of the matrix of prefix sums: binom(2k, k) / 4^k.

    The factorisation of Bennett and of Fichtenberger, Henzinger and Upadhyay (2022, arXiv
    2202.11205), whose largest error no Toeplitz factorisation beats by more than a constant.
    """
    k = np.arange(1, terms)
    return np.concatenate([[1.0], np.cumprod(1 - 1 / (2 * k))])


def inverse(series: Series, terms: int) -> Series:
    """The first terms of the series whose product with this one is 1, by Newton's method."""
    series = np.pad(series[:terms], (0, max(0, terms - len(series))))
    found = np.array([1 / series[0]])
    while len(found) < terms:
        size = min(2 * len(found), terms)
        product = _product(series[:size], found, size)
        product[0] -= 2
        found = -_product(found, product, size)
    return found


def squared_error(coefficients: Series, workload: Workload, steps: int) -> tuple[float, Series]:
    """Sum over all steps of the noise's variance in the parameters, and its slopes.

    Args:
      coefficients: of a lower-triangular Toeplitz matrix C, the first ones of its first column.
        The noise of step t is row t of C^-1 times independent standard normals.
      workload: what the noise is used for.
      steps: in the run.
    """
    made = inverse(coefficients, steps)
    held = np.asarray(signal.lfilter([1.0], [1.0, -workload.momentum], made))
    error, slopes = _of_held(held, workload.rates(steps))
    # held = (1 - momentum x)^-1 / C(x), so its slope by c_j is -x^j held / C(x).
    back = _product(made, slopes[::-1], steps)[::-1]
    terms = len(coefficients)
    return error, -_correlation(back, held, terms)


def turns_norm(coefficients: Series, steps: int, turns: int, apart: int) -> tuple[float, Series]:
    """Squared norm of the sum of a Toeplitz matrix's columns 0, apart, 2 apart, ..; its slopes."""
    padded = np.zeros(steps)
    padded[: min(steps, len(coefficients))] = coefficients[:steps]
    total = np.zeros(steps)
    starts = [turn * apart for turn in range(turns) if turn * apart < steps]
    for start in starts:
        total[start:] += padded[: steps - start]
    slopes = np.zeros(steps)
    for start in starts:
        slopes[: steps - start] += 2 * total[start:]
    return float(total @ total), slopes[: len(coefficients)]


def _of_held(held: Series, rates: Series) -> tuple[float, Series]:
    """Of noise that enters with weights `held` by lag and is summed with the learning rates.

    The rates are 1 at first and then fall by the same amount each step, so that the sum of a
    normal's weights is linear, by when it was drawn, in two series of the lag: `sums` of the
    weights and `moments` of lag times weight. The squares add up by running sums of these.
    """
    steps = len(held)
    lags = np.arange(steps, dtype=float)
    sums, moments = np.cumsum(held), np.cumsum(lags * held)
    first = int(np.searchsorted(-rates, -1.0, side="right"))
    # While the rate is 1: `first - lag` normals have this lag.
    left = np.maximum(first - lags, 0.0)
    error = float(left @ sums**2)
    by_sum, by_moment = 2 * left * sums, np.zeros(steps)
    if first < steps:
        falling = _of_falling(sums, moments, rates, first)
        error, by_sum, by_moment = error + falling[0], by_sum + falling[1], falling[2]
    slopes = np.cumsum(by_sum[::-1])[::-1] + lags * np.cumsum(by_moment[::-1])[::-1]
    return error, slopes


def _of_falling(
    sums: Series, moments: Series, rates: Series, first: int
) -> tuple[float, Series, Series]:
    """The part of the steps from `first` on, with its slopes by both series.

    A normal drawn at s is in step s + lag with `rest + at * sums[lag] + fall * moments[lag]`.
    """
    steps = len(sums)
    drawn = np.arange(steps)
    fall = (rates[-1] - 1) / (steps - first)
    at = 1 + fall * (drawn - first + 1)
    before = np.maximum(first - 1 - drawn, 0)
    early = drawn < first
    rest = np.where(early, sums[before] * (1 - at) - fall * moments[before], 0.0)
    low, high = np.maximum(first - drawn, 0), steps - drawn

    def over_lags(series: Series) -> Series:
        running = np.concatenate([[0.0], np.cumsum(series)])
        return running[high] - running[low]

    def over_draws(series: Series) -> Series:
        # Of lag l: those drawn from first - l to steps - 1 - l.
        running = np.concatenate([[0.0], np.cumsum(series)])
        return running[steps - drawn] - running[np.maximum(first - drawn, 0)]

    count = high - low
    s1, m1, ss, sm, mm = (
        over_lags(one) for one in (sums, moments, sums**2, sums * moments, moments**2)
    )
    squares = rest**2 * count + at**2 * ss + fall**2 * mm
    squares += 2 * (rest * at * s1 + rest * fall * m1 + at * fall * sm)
    d_rest = over_draws(rest)
    d_at = over_draws(at)
    by_sum = 2 * (over_draws(rest * at) + sums * over_draws(at**2) + fall * moments * d_at)
    by_moment = 2 * fall * (d_rest + sums * d_at + fall * moments * count)
    by_rest = np.where(early, 2 * (rest * count + at * s1 + fall * m1), 0.0)
    np.add.at(by_sum, before, by_rest * (1 - at))
    np.add.at(by_moment, before, -fall * by_rest)
    return float(squares.sum()), by_sum, by_moment


def _product(a: Series, b: Series, terms: int) -> Series:
    return signal.convolve(a, b, method="auto")[:terms]


def _correlation(a: Series, b: Series, terms: int) -> Series:
    """Sum over s of a[s] b[s - j], for the first js."""
    full = signal.convolve(a, b[::-1], method="auto")
    return full[len(b) - 1 : len(b) - 1 + terms]
