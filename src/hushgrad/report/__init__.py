"""Reports of runs, for who has to approve them and for who has to debug them.

```python
from pathlib import Path

told = hg.report.facts("runs/mine")                 # as plain data
Path("report.html").write_text(hg.report.html("runs/mine"), encoding="utf-8")
Path("public.html").write_text(hg.report.html("runs/mine", public=True), encoding="utf-8")

hg.report.comparison(["runs/a", "runs/b"])          # and comparison_html
```

A report is computed anew from the run's ledger, which is followed row by row: what the run's
statement said when it ended is not taken on trust. HTML takes the extra `report`; facts do not.
"""

from hushgrad.report.comparison import comparison, comparison_html
from hushgrad.report.facts import facts
from hushgrad.report.page import html

__all__ = ["comparison", "comparison_html", "facts", "html"]
