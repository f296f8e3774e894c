"""Private estimators with scikit-learn's interface.

```python
from hushgrad.sklearn import DPLogisticRegression

model = DPLogisticRegression(epsilon=1.0, bounds=(0, 100), classes=["no", "yes"])
model.fit(x, y).predict(x_new)
print(model.privacy_statement())
```

Each fit is a release. What several fits on the same records promise together, such as those
of a cross-validation, is held by `budget=hg.Budget(...)`, which copies of an estimator share.
"""

from hushgrad.sklearn.classifiers import DPLogisticRegression, DPMLPClassifier
from hushgrad.sklearn.regressors import DPLinearRegression, DPMLPRegressor

__all__ = ["DPLinearRegression", "DPLogisticRegression", "DPMLPClassifier", "DPMLPRegressor"]
