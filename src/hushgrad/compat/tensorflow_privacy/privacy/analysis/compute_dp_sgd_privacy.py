"""The module that TensorFlow Privacy's notebooks call, and that later releases emptied."""

from hushgrad.compat.tensorflow_privacy.privacy.analysis.compute_dp_sgd_privacy_lib import (
    compute_dp_sgd_privacy,
    compute_dp_sgd_privacy_statement,
)

__all__ = ["compute_dp_sgd_privacy", "compute_dp_sgd_privacy_statement"]
