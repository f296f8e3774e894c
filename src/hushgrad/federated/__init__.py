"""Federated learning with user-level privacy: simulated, or with clients on a network."""

from hushgrad.federated.aggregator import Aggregator, AggregatorState, dp_aggregator
from hushgrad.federated.averaging import fed_avg, fed_prox, fed_sgd
from hushgrad.federated.cohort import Cohort
from hushgrad.federated.metrics import Metric, PrivateEvaluation, private_evaluation
from hushgrad.federated.planning import CohortPlan, clients_for_budget
from hushgrad.federated.process import LearningProcess, ServerState
from hushgrad.federated.round import Round, RoundMetrics
from hushgrad.federated.work import Gradient, Local, Work

__all__ = [
    "Aggregator",
    "AggregatorState",
    "Cohort",
    "CohortPlan",
    "Gradient",
    "LearningProcess",
    "Local",
    "Metric",
    "PrivateEvaluation",
    "Round",
    "RoundMetrics",
    "ServerState",
    "Work",
    "clients_for_budget",
    "dp_aggregator",
    "fed_avg",
    "fed_prox",
    "fed_sgd",
    "private_evaluation",
]
