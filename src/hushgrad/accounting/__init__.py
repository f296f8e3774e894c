"""From a mechanism's event to epsilon and delta, and from epsilon to noise.

Every accountant is one file here with `epsilon` and `delta`, listed in
`accountants.py`. The language is `dp_accounting`'s `DpEvent`.
"""

from hushgrad.accounting.accountants import ACCOUNTANTS, delta, epsilon
from hushgrad.accounting.calibration import smallest_noise
from hushgrad.accounting.events import poisson_gaussian
from hushgrad.accounting.statement import statement

__all__ = ["ACCOUNTANTS", "delta", "epsilon", "poisson_gaussian", "smallest_noise", "statement"]
