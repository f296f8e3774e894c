"""The errors a user can cause and mend.

Every message names the argument, the value it had and what to do instead. The
command line prints the message alone, without a traceback, and exits with 2.
"""

__all__ = [
    "BudgetError",
    "DataError",
    "HushgradError",
    "InputError",
    "LedgerError",
    "ProcessError",
    "ResumeError",
    "StorageError",
]


class HushgradError(Exception):
    """Base of every error that hushgrad raises for something the user can mend."""


class InputError(HushgradError, ValueError):
    """An argument is wrong: its name, its value and the mend are in the message."""


class DataError(HushgradError, ValueError):
    """A file or an array of data cannot be used: which one, where and why."""


class BudgetError(HushgradError, RuntimeError):
    """A privacy budget does not hold what is asked of it, or no longer."""


class LedgerError(HushgradError, RuntimeError):
    """A ledger cannot be written or trusted; nothing was released that it does not show."""


class ProcessError(HushgradError, RuntimeError):
    """Of the processes that carry out a run together one failed or is gone; the call goes on."""


class StorageError(HushgradError, OSError):
    """A run's files cannot be written; the same call goes on when that is mended."""


class ResumeError(HushgradError, RuntimeError):
    """A run directory holds something that this run may not continue."""
