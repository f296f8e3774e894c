"""What is released of the columns of a table before a model is trained on it.

Scaling a column needs its range, and one column for each category needs their names. Where
these are not public they are read off histograms with noise, at a price that is composed
with the training's:

```python
h = Histograms.of(examples=len(x), columns=x.shape[1], epsilon=0.1, delta=1e-5)
low, high, found = bounds_of(survey([Counts.of_numbers(c) for c in x.T], h))
```

Features with a public range are centred and scaled by their `moments`, and turned by the
`whitening` of their `covariance`.
"""

from hushgrad.summaries.bounds import EDGES, Range, bounds_of, records_of
from hushgrad.summaries.channels import ChannelRelease
from hushgrad.summaries.covariance import Covariance, covariance, whitening
from hushgrad.summaries.histograms import Histograms
from hushgrad.summaries.moments import Moments, Scale, moments
from hushgrad.summaries.release import Counts, Noisy, survey
from hushgrad.summaries.releases import Releases

__all__ = [
    "EDGES",
    "ChannelRelease",
    "Counts",
    "Covariance",
    "Histograms",
    "Moments",
    "Noisy",
    "Range",
    "Releases",
    "Scale",
    "bounds_of",
    "covariance",
    "moments",
    "records_of",
    "survey",
    "whitening",
]
