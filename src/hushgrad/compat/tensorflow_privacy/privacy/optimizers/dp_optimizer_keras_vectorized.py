"""The optimizers that were the fast ones: here all are, so these are the same."""

from hushgrad.compat.tensorflow_privacy.privacy.optimizers.dp_optimizer_keras import (
    DPKerasAdagradOptimizer as VectorizedDPKerasAdagradOptimizer,
)
from hushgrad.compat.tensorflow_privacy.privacy.optimizers.dp_optimizer_keras import (
    DPKerasAdamOptimizer as VectorizedDPKerasAdamOptimizer,
)
from hushgrad.compat.tensorflow_privacy.privacy.optimizers.dp_optimizer_keras import (
    DPKerasSGDOptimizer as VectorizedDPKerasSGDOptimizer,
)

__all__ = [
    "VectorizedDPKerasAdagradOptimizer",
    "VectorizedDPKerasAdamOptimizer",
    "VectorizedDPKerasSGDOptimizer",
]
