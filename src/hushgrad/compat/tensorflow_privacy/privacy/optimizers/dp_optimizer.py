"""TensorFlow 1's names of the optimizers, on Keras's."""

import keras

from hushgrad.compat.tensorflow_privacy.privacy.optimizers.dp_optimizer_keras import (
    DPKerasAdagradOptimizer,
    DPKerasAdamOptimizer,
    DPKerasSGDOptimizer,
    make_keras_optimizer_class,
)

__all__ = [
    "DPAdagradGaussianOptimizer",
    "DPAdagradOptimizer",
    "DPAdamGaussianOptimizer",
    "DPAdamOptimizer",
    "DPGradientDescentGaussianOptimizer",
    "DPGradientDescentOptimizer",
    "DPRMSPropGaussianOptimizer",
    "DPRMSPropOptimizer",
]

DPAdagradOptimizer = DPAdagradGaussianOptimizer = DPKerasAdagradOptimizer
DPAdamOptimizer = DPAdamGaussianOptimizer = DPKerasAdamOptimizer
DPGradientDescentOptimizer = DPGradientDescentGaussianOptimizer = DPKerasSGDOptimizer
DPRMSPropOptimizer = DPRMSPropGaussianOptimizer = make_keras_optimizer_class(
    keras.optimizers.RMSprop
)
