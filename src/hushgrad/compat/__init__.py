"""Faces of other libraries: a script that was written for one changes its imports alone."""
