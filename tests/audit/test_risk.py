"""Who is exposed, and who is recognised."""

import warnings

import numpy as np
import pytest

from hushgrad.audit.outputs import Outputs
from hushgrad.audit.reidentification import reidentification, warn_if_published
from hushgrad.audit.risk import RiskScores, privacy_risk_score
from hushgrad.errors import InputError


def test_risk_scores_are_those_of_tensorflow_privacy():
    members, others = [1.0, 1, 1, 10, 100], [10.0, 100, 100, 1000, 10000]
    for found in (
        privacy_risk_score(members, others),
        privacy_risk_score(Outputs(losses=members), Outputs(losses=others)),
    ):
        np.testing.assert_allclose(found.members, [1, 1, 1, 1 / 2, 1 / 3])
        np.testing.assert_allclose(found.non_members, [1 / 2, 1 / 3, 1 / 3, 0, 0])
    assert found.most_exposed(3) == [0, 1, 2]


def test_table_is_that_of_tensorflow_privacy():
    risk = RiskScores(np.array([0.91, 1, 0.92, 0.82, 0.75]), np.array([0.81, 0.7, 0.75, 0.25, 0.3]))
    rows = risk.table([1.5, 0.8, 0.7])
    assert [(row.precision, row.recall) for row in rows] == [(0.8, 0.8), (0.625, 1.0)]


def test_sizes_do_not_matter_and_entropy_serves_too():
    rng = np.random.default_rng(0)
    found = privacy_risk_score(rng.exponential(size=20_000), rng.exponential(size=2_000), bins=5)
    # The last bins hold nearly all.
    assert abs(np.median(found.members) - 0.5) < 0.05
    said = Outputs(logits=rng.normal(size=(50, 3)))
    assert len(privacy_risk_score(said, said).members) == 50
    np.testing.assert_allclose(privacy_risk_score([0.0, 0.0], [0.0]).members, 0.5)


@pytest.mark.parametrize(
    ("members", "message"),
    [([-1.0], "zero or more, finite"), ([np.inf], "finite"), ([np.nan], "NaN"), ([], "at least")],
)
def test_errors_name_the_side(members, message):
    with pytest.raises(InputError, match=f"members must.*{message}"):
        privacy_risk_score(members, [1.0])


def test_rows_that_nobody_shares_are_counted():
    found = reidentification([0.11, 0.12, 0.31, 0.5])
    assert (found.rows, found.unique, found.groups, found.smallest_group) == (4, 4, 4, 1)
    rounded = reidentification([0.11, 0.12, 0.31, 0.29], digits=1)
    assert (rounded.unique, rounded.groups, rounded.smallest_group, rounded.share) == (0, 2, 2, 0)
    assert rounded.to_dict()["share"] == 0
    table = np.array([["a", "x"], ["a", "y"], ["a", "x"]])
    assert reidentification(table).unique == 1
    assert reidentification([np.nan, np.nan, 1.0, -0.0, 0.0]).unique == 1
    with pytest.raises(InputError, match="not empty"):
        reidentification([])
    with pytest.raises(InputError, match="digits=1 rounds numbers"):
        reidentification(["a"], digits=1)


def test_who_publishes_is_warned():
    with pytest.warns(UserWarning, match=r"losses: 1 of 3 rows \(33.3 %\) have a value"):
        warn_if_published([1.0, 2.0, 2.0], "losses")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_published([1.0, 1.01], "losses", digits=1)
