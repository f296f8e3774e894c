"""Loaders for the examples and for the tests' real data.

```python
from hushgrad.datasets import load_digits, load_mnist

digits = load_digits()  # bundled, no download
images, labels = digits.train  # float32[n, 8, 8] in [0, 1], int32[n]
mnist = load_mnist(data_dir="data/mnist")
```
"""

from hushgrad.datasets.columns import Columns
from hushgrad.datasets.dataset import Dataset
from hushgrad.datasets.digits import load_digits
from hushgrad.datasets.idx import read_idx
from hushgrad.datasets.mnist import load_mnist
from hushgrad.datasets.schema import Category, Number, Schema
from hushgrad.datasets.table import encode_table, read_table, table_labels
from hushgrad.datasets.writers import load_mnist_writers

__all__ = [
    "Category",
    "Columns",
    "Dataset",
    "Number",
    "Schema",
    "encode_table",
    "load_digits",
    "load_mnist",
    "load_mnist_writers",
    "read_idx",
    "read_table",
    "table_labels",
]
