"""TensorFlow Privacy's names on hushgrad: a script changes its imports alone.

```python
import hushgrad.compat.tensorflow_privacy as tensorflow_privacy
from hushgrad.compat.tensorflow_privacy.privacy.dp_query import gaussian_query
```

Neither TensorFlow nor Keras is needed for accounting and queries. Texts and numbers of the
accountants are TensorFlow Privacy's; where it was unsafe (keys from the clock, noise
that two results share, records that NaN or broadcasting blow up) this is not.
docs/migrating-from-tensorflow-privacy.md goes through it name by name.
"""

import importlib
from typing import Any

from hushgrad.compat.tensorflow_privacy.privacy.analysis.compute_dp_sgd_privacy_lib import (
    AccountantType,
    UserLevelDPComputationError,
    compute_dp_sgd_privacy,
    compute_dp_sgd_privacy_statement,
)
from hushgrad.compat.tensorflow_privacy.privacy.analysis.compute_noise_from_budget_lib import (
    compute_noise,
)
from hushgrad.compat.tensorflow_privacy.privacy.analysis.rdp_accountant import (
    compute_rdp,
    get_privacy_spent,
)
from hushgrad.compat.tensorflow_privacy.privacy.analysis.tree_aggregation_accountant import (
    compute_rdp_single_tree,
    compute_rdp_tree_restart,
    compute_zcdp_single_tree,
)
from hushgrad.compat.tensorflow_privacy.privacy.dp_query import restart_query, tree_aggregation
from hushgrad.compat.tensorflow_privacy.privacy.dp_query.discrete_gaussian_query import (
    DiscreteGaussianSumQuery,
)
from hushgrad.compat.tensorflow_privacy.privacy.dp_query.distributed_discrete_gaussian_query import (  # noqa: E501
    DistributedDiscreteGaussianSumQuery,
)
from hushgrad.compat.tensorflow_privacy.privacy.dp_query.dp_query import (
    DPQuery,
    SumAggregationDPQuery,
)
from hushgrad.compat.tensorflow_privacy.privacy.dp_query.gaussian_query import GaussianSumQuery
from hushgrad.compat.tensorflow_privacy.privacy.dp_query.nested_query import (
    NestedQuery,
    NestedSumQuery,
)
from hushgrad.compat.tensorflow_privacy.privacy.dp_query.no_privacy_query import (
    NoPrivacyAverageQuery,
    NoPrivacySumQuery,
)
from hushgrad.compat.tensorflow_privacy.privacy.dp_query.normalized_query import NormalizedQuery
from hushgrad.compat.tensorflow_privacy.privacy.dp_query.quantile_adaptive_clip_sum_query import (
    QuantileAdaptiveClipSumQuery,
)
from hushgrad.compat.tensorflow_privacy.privacy.dp_query.quantile_adaptive_clip_tree_query import (
    QAdaClipTreeResSumQuery,
)
from hushgrad.compat.tensorflow_privacy.privacy.dp_query.quantile_estimator_query import (
    NoPrivacyQuantileEstimatorQuery,
    QuantileEstimatorQuery,
    TreeQuantileEstimatorQuery,
)
from hushgrad.compat.tensorflow_privacy.privacy.dp_query.restart_query import RestartQuery
from hushgrad.compat.tensorflow_privacy.privacy.dp_query.tree_aggregation import (
    EfficientTreeAggregator,
    GaussianNoiseGenerator,
    TreeAggregator,
)
from hushgrad.compat.tensorflow_privacy.privacy.dp_query.tree_aggregation_query import (
    TreeCumulativeSumQuery,
    TreeResidualSumQuery,
)
from hushgrad.compat.tensorflow_privacy.privacy.dp_query.tree_range_query import TreeRangeSumQuery

__all__ = [
    "AccountantType",
    "DPQuery",
    "DiscreteGaussianSumQuery",
    "DistributedDiscreteGaussianSumQuery",
    "EfficientTreeAggregator",
    "GaussianNoiseGenerator",
    "GaussianSumQuery",
    "NestedQuery",
    "NestedSumQuery",
    "NoPrivacyAverageQuery",
    "NoPrivacyQuantileEstimatorQuery",
    "NoPrivacySumQuery",
    "NormalizedQuery",
    "QAdaClipTreeResSumQuery",
    "QuantileAdaptiveClipSumQuery",
    "QuantileEstimatorQuery",
    "RestartQuery",
    "SumAggregationDPQuery",
    "TreeAggregator",
    "TreeCumulativeSumQuery",
    "TreeQuantileEstimatorQuery",
    "TreeRangeSumQuery",
    "TreeResidualSumQuery",
    "UserLevelDPComputationError",
    "compute_dp_sgd_privacy",
    "compute_dp_sgd_privacy_statement",
    "compute_noise",
    "compute_rdp",
    "compute_rdp_single_tree",
    "compute_rdp_tree_restart",
    "compute_zcdp_single_tree",
    "get_privacy_spent",
    "restart_query",
    "tree_aggregation",
]

# What trains needs Keras, and is imported when it is asked for.
_TRAINING = {
    "dp_optimizer": (
        "DPAdagradGaussianOptimizer",
        "DPAdagradOptimizer",
        "DPAdamGaussianOptimizer",
        "DPAdamOptimizer",
        "DPGradientDescentGaussianOptimizer",
        "DPGradientDescentOptimizer",
        "DPRMSPropGaussianOptimizer",
        "DPRMSPropOptimizer",
    ),
    "dp_optimizer_keras": (
        "DPFTRLTreeAggregationOptimizer",
        "DPKerasAdagradOptimizer",
        "DPKerasAdamOptimizer",
        "DPKerasSGDOptimizer",
        "GenericDPAdagradOptimizer",
        "GenericDPAdamOptimizer",
        "GenericDPSGDOptimizer",
        "make_gaussian_query_optimizer_class",
        "make_keras_generic_optimizer_class",
        "make_keras_optimizer_class",
    ),
    "dp_optimizer_keras_vectorized": (
        "VectorizedDPKerasAdagradOptimizer",
        "VectorizedDPKerasAdamOptimizer",
        "VectorizedDPKerasSGDOptimizer",
    ),
    "dp_keras_model": ("DPModel", "DPSequential", "make_dp_model_class"),
}


def __getattr__(name: str) -> Any:
    for module, names in _TRAINING.items():
        if name in names:
            folder = "keras_models" if module == "dp_keras_model" else "optimizers"
            found = importlib.import_module(f"{__name__}.privacy.{folder}.{module}")
            return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for names in _TRAINING.values() for name in names)])
