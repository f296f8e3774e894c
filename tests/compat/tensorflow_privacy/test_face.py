"""What scripts import, and that it takes neither TensorFlow nor Keras."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hushgrad.compat import tensorflow_privacy

MODULES = {
    "analysis.compute_dp_sgd_privacy": "compute_dp_sgd_privacy compute_dp_sgd_privacy_statement",
    "analysis.compute_dp_sgd_privacy_lib": "compute_dp_sgd_privacy AccountantType",
    "analysis.compute_noise_from_budget_lib": "compute_noise",
    "analysis.gdp_accountant": "compute_eps_poisson compute_eps_uniform compute_mu_poisson",
    "analysis.rdp_accountant": "compute_rdp get_privacy_spent",
    "analysis.tree_aggregation_accountant": "compute_rdp_tree_restart compute_zcdp_single_tree",
    "dp_query.dp_query": "DPQuery SumAggregationDPQuery",
    "dp_query.discrete_gaussian_query": "DiscreteGaussianSumQuery",
    "dp_query.discrete_gaussian_utils": "sample_discrete_gaussian",
    "dp_query.distributed_discrete_gaussian_query": "DistributedDiscreteGaussianSumQuery",
    "dp_query.gaussian_query": "GaussianSumQuery",
    "dp_query.nested_query": "NestedQuery NestedSumQuery",
    "dp_query.no_privacy_query": "NoPrivacySumQuery NoPrivacyAverageQuery",
    "dp_query.normalized_query": "NormalizedQuery",
    "dp_query.quantile_adaptive_clip_sum_query": "QuantileAdaptiveClipSumQuery",
    "dp_query.quantile_adaptive_clip_tree_query": "QAdaClipTreeResSumQuery",
    "dp_query.quantile_estimator_query": "QuantileEstimatorQuery TreeQuantileEstimatorQuery",
    "dp_query.restart_query": "RestartQuery PeriodicTimeRestartIndicator",
    "dp_query.tree_aggregation": "TreeAggregator GaussianNoiseGenerator get_step_idx",
    "dp_query.tree_aggregation_query": "TreeCumulativeSumQuery TreeResidualSumQuery",
    "dp_query.tree_range_query": "TreeRangeSumQuery",
}


@pytest.mark.parametrize("path", MODULES)
def test_the_paths_that_scripts_import_from(path):
    module = importlib.import_module(f"hushgrad.compat.tensorflow_privacy.privacy.{path}")
    for name in MODULES[path].split():
        assert name in module.__all__
        assert hasattr(module, name)
        # One implementation each.
        if "compute_dp_sgd" not in path and name in tensorflow_privacy.__all__:
            assert getattr(tensorflow_privacy, name) is getattr(module, name)


def test_the_guides_query_runs():
    guide = Path(__file__).parents[3] / "docs" / "migrating-from-tensorflow-privacy.md"
    blocks = re.findall(r"```python\n(.*?)```", guide.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "GaussianSumQuery" in block]
    names = {}
    exec(block, names)
    assert names["event"].noise_multiplier == pytest.approx(1.1)
    assert names["result"].shape == (3,)


def test_accounting_and_queries_need_no_framework():
    code = (
        "import sys, hushgrad.compat.tensorflow_privacy as tfp; tfp.GaussianSumQuery(1.0, 1.0);"
        "print(sorted({'tensorflow', 'keras', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout == "[]\n"
