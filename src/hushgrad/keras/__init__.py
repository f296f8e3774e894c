"""Keras 3 on JAX: models that people know, trained privately.

```python
import hushgrad as hg
import keras

private = hg.keras.privatize(model, clip=1.0, epsilon=3.0, delta=1e-5)
private.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
private.fit(x, y, batch_size=256, epochs=15)
```
"""

import os
import sys

from hushgrad.errors import InputError

if "keras" not in sys.modules:
    # Whoever chose a backend keeps it, and is told below if it is another.
    os.environ.setdefault("KERAS_BACKEND", "jax")
try:
    import keras as _keras
except ImportError as error:
    raise ImportError("hushgrad.keras needs Keras 3: pip install 'hushgrad[keras]'") from error
if _keras.backend.backend() != "jax":
    raise InputError(
        f"Keras runs on {_keras.backend.backend()!r}, and hushgrad on JAX: set KERAS_BACKEND=jax "
        "in the environment before Keras is imported"
    )

from hushgrad.keras import callbacks
from hushgrad.keras.batchnorm import replace_batchnorm
from hushgrad.keras.model import PrivateModel, privatize

__all__ = ["PrivateModel", "callbacks", "privatize", "replace_batchnorm"]
