"""Serving the page to this machine alone."""

from __future__ import annotations

import json
import secrets
import socket
import sys
import webbrowser

import typer

from hushgrad.cli.planner.facts import Settings, facts
from hushgrad.errors import InputError

__all__ = ["serve"]

_HOST = "127.0.0.1"


def serve(start: Settings, port: int | None = None, *, as_json: bool = False) -> None:
    """Serves the page until it is interrupted.

    Its address, with a fresh token, goes to the standard output, and to the browser where that is
    a terminal. It is bound to the loopback interface.

    Args:
      start: where the sliders stand at first.
      port: to serve on; a free one by default.
      as_json: the address as JSON.

    Raises:
      InputError: if the settings are no plan, the port is taken, or NiceGUI is not installed.
    """
    facts(start)
    chosen, token = _free(port), secrets.token_urlsafe(32)
    try:
        from hushgrad.cli.planner.page import build
    except ImportError as error:
        raise InputError(
            "--ui needs NiceGUI; install it with: pip install 'hushgrad[ui]'"
        ) from error
    address = f"http://{_HOST}:{chosen}/?token={token}"
    run = build(start, token, chosen)
    if as_json:
        typer.echo(json.dumps({"url": address}))
    else:
        typer.echo(f"The planner is at\n  {address}\nfor this machine alone; Ctrl-C ends it.")
    sys.stdout.flush()

    def opened() -> None:
        if sys.stdout.isatty():
            webbrowser.open(address)

    run(_HOST, opened)


def _free(port: int | None) -> int:
    """The port, or a free one."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((_HOST, port or 0))
        except (OSError, OverflowError) as error:
            raise InputError(
                f"port {port} cannot be served on ({error}); name another with --port, or none"
            ) from error
        return tried.getsockname()[1]
