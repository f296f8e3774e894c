"""Records and a budget that the tests of estimators share."""

import numpy as np
import pytest

import hushgrad as hg
from hushgrad.sklearn import DPLogisticRegression


@pytest.fixture(scope="session")
def records():
    """200 records of 4 features with two classes that a line divides."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (200, 4))
    return x, (x @ [1.0, -2.0, 0.5, 0.0] > 0).astype(int)


@pytest.fixture(scope="session")
def fitted(records):
    """A quick fit of them, with a seed."""
    model = DPLogisticRegression(
        bounds=(-1, 1), steps=3, batch_size=20, random_state=0, classes=[0, 1]
    )
    return model.fit(*records)


@pytest.fixture
def budget(tmp_path):
    """Of epsilon 5."""
    return hg.Budget("records", 5.0, 1e-5, url=f"sqlite:///{tmp_path / 'budgets.sqlite'}")
