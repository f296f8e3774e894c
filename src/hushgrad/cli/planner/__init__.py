"""`hushgrad plan --ui`: a page on this machine on which a run is planned with sliders."""

from hushgrad.cli.planner.facts import Settings
from hushgrad.cli.planner.serve import serve

__all__ = ["Settings", "serve"]
