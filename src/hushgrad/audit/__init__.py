"""Attacks on models, and what they prove: privacy measured from below.

An epsilon is a promise by proof; an audit is what an attacker really gets. `membership` attacks
any predictor, `lira_...` and `rmia_...` beside shadow models, which `train_shadows` makes;
`Canaries` audit a run of `hg.train` from inside, `many_runs` a mechanism; `secrets` and
`exposure_by_...` tell what a language model knows by heart. None of what they give is private.
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
from hushgrad.audit.exposure import (
    Secrets,
    exposure_by_extrapolation,
    exposure_by_interpolation,
    log_perplexity,
    secrets,
)
from hushgrad.audit.found import CanariesFound
from hushgrad.audit.lira import (
    label_logit,
    lira_leave_one_out,
    lira_offline,
    lira_online,
    logit_of_loss,
)
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
from hushgrad.audit.rmia import rmia_leave_one_out, rmia_offline, rmia_online
from hushgrad.audit.roc import Roc
from hushgrad.audit.sequences import of_sequences
from hushgrad.audit.shadows import Shadows, train_private_shadows, train_shadows
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
    "Secrets",
    "Shadows",
    "Slices",
    "Verdict",
    "clopper_pearson",
    "draw",
    "epsilon_lower_bound",
    "exposure_by_extrapolation",
    "exposure_by_interpolation",
    "label_logit",
    "lira_leave_one_out",
    "lira_offline",
    "lira_online",
    "log_perplexity",
    "logit_of_loss",
    "many_runs",
    "membership",
    "most_that_can_be_shown",
    "of_sequences",
    "one_run",
    "privacy_risk_score",
    "ratio_bound",
    "reidentification",
    "rmia_leave_one_out",
    "rmia_offline",
    "rmia_online",
    "secrets",
    "train_private_shadows",
    "train_shadows",
    "verdict",
    "warn_if_published",
]
