"""The `hushgrad` command."""

from hushgrad.cli.app import main

__all__ = ["main"]
