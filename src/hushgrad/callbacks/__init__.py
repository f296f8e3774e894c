"""What a run may do after its steps: keep score, write logs, show how far it is.

Each is given to `hg.train(callback=...)`, alone or in a list; any function of the progress
may stand beside them, and any object that is one with `begin(directory, start, params)` or
`end()` too. Whatever carries no noise is marked as unprotected where it is written: it is
for those who hold the data.
"""

from hushgrad.callbacks.bar import ProgressBar
from hushgrad.callbacks.logs import JsonLines, TensorBoard
from hushgrad.callbacks.validation import Validation

__all__ = ["JsonLines", "ProgressBar", "TensorBoard", "Validation"]
