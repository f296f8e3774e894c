"""From a mechanism's event to epsilon and delta, and from a budget to what to run.

Every accountant is one file here with `epsilon` and `delta`, listed in
`accountants.py`. The language is `dp_accounting`'s `DpEvent`; the Gaussian family, where
nearly all training lives, is composed in `losses`, with certified bounds.
"""

from hushgrad.accounting.accountants import (
    ACCOUNTANTS,
    delta,
    delta_interval,
    epsilon,
    epsilon_interval,
)
from hushgrad.accounting.bounds import Bound, bounds
from hushgrad.accounting.calibration import Calibration, calibrate, smallest_noise, whole_steps
from hushgrad.accounting.events import RELATIONS, poisson_gaussian
from hushgrad.accounting.losses import Interval
from hushgrad.accounting.plain import from_plain, to_plain
from hushgrad.accounting.profile import (
    Profile,
    TradeOff,
    advantage,
    posterior,
    profile,
    trade_off,
)
from hushgrad.accounting.running import running
from hushgrad.accounting.statement import statement, statement_facts

__all__ = [
    "ACCOUNTANTS",
    "RELATIONS",
    "Bound",
    "Calibration",
    "Interval",
    "Profile",
    "TradeOff",
    "advantage",
    "bounds",
    "calibrate",
    "delta",
    "delta_interval",
    "epsilon",
    "epsilon_interval",
    "from_plain",
    "poisson_gaussian",
    "posterior",
    "profile",
    "running",
    "smallest_noise",
    "statement",
    "statement_facts",
    "to_plain",
    "trade_off",
    "whole_steps",
]
