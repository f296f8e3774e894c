"""Privacy losses of Gaussian releases: discretised, composed, certified.

Given releases of the Gaussian family, bounds on epsilon and delta from above and from
below. Gopi, Lee and Wutschitz 2021 (arXiv 2106.02848) and Koskela, Jalko and Honkela
2020 (arXiv 1906.03049) compose losses by Fourier transforms; the grids here are by
Doroshenko et al. 2022 (arXiv 2207.04380), tilted as by Alghamdi et al. 2023
(arXiv 2303.07245).
"""

from hushgrad.accounting.losses.certified import (
    Interval,
    delta_interval,
    delta_upper,
    epsilon_interval,
    epsilon_upper,
    profile_upper,
)
from hushgrad.accounting.losses.gaussian import gaussian_delta, gaussian_epsilon
from hushgrad.accounting.losses.pairs import Release
from hushgrad.accounting.losses.running import Running

__all__ = [
    "Interval",
    "Release",
    "Running",
    "delta_interval",
    "delta_upper",
    "epsilon_interval",
    "epsilon_upper",
    "gaussian_delta",
    "gaussian_epsilon",
    "profile_upper",
]
