"""`python -m hushgrad` is the `hushgrad` command."""

from hushgrad.cli import main

main()
