"""Attacks on models, and what they prove: privacy measured from below.

An epsilon is a promise by proof; an audit is what an attacker really gets. `membership` attacks
any predictor, `lira_online`, `lira_offline` and `rmia` with shadow models; `Canaries` audit a run
of `hg.train` from inside, `many_runs` a mechanism; `secrets` and `exposure_by_...` tell what a
language model has learned by heart. Nothing of what they give is private.
"""

from hushgrad.audit.attackers import ATTACKS
from hushgrad.audit.bounds import (
    LowerBound,
    clopper_pearson,
    epsilon_lower_bound,
    most_that_can_be_shown,
    ratio_bound,
)
from hushgrad.audit.canaries import Canaries
from hushgrad.audit.found import CanariesFound
from hushgrad.audit.many_runs import many_runs
from hushgrad.audit.membership import Attack, Membership, membership
from hushgrad.audit.one_run import OneRun, one_run
from hushgrad.audit.outputs import Outputs
from hushgrad.audit.picture import draw
from hushgrad.audit.reidentification import (
    Reidentification,
    reidentification,
    warn_if_published,
)
from hushgrad.audit.risk import RiskScores, privacy_risk_score
from hushgrad.audit.roc import Roc
from hushgrad.audit.sequences import of_sequences
from hushgrad.audit.slices import Slices
from hushgrad.audit.verdict import Verdict, verdict

__all__ = [
    "ATTACKS",
    "Attack",
    "Canaries",
    "CanariesFound",
    "LowerBound",
    "Membership",
    "OneRun",
    "Outputs",
    "Reidentification",
    "RiskScores",
    "Roc",
    "Slices",
    "Verdict",
    "clopper_pearson",
    "draw",
    "epsilon_lower_bound",
    "many_runs",
    "membership",
    "most_that_can_be_shown",
    "of_sequences",
    "one_run",
    "privacy_risk_score",
    "ratio_bound",
    "reidentification",
    "verdict",
    "warn_if_published",
]
