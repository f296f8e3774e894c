"""A browser for tests of pages: Chromium, where there is one, and cut off from the network."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Of a page and of what a test serves on this machine.
_HERE = ("localhost", "127.0.0.1")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for the tests of one file; they are skipped where there is none.

    Import it into the file or its conftest: `from browser import browser, opened`.
    """
    reason = "needs a browser: apt install chromium, and pip install playwright"
    api = pytest.importorskip("playwright.sync_api", reason=reason)
    with api.sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, _NAMES)), None)
        if found is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip(reason)
        made = playwright.chromium.launch(executable_path=found, args=_ARGUMENTS)
        yield made
        made.close()


@dataclasses.dataclass
class Opened:
    """A page, and what became known of it since it was opened.

    Attributes:
      page: playwright's.
      errors: what it complained of on its console, or raised.
      outside: addresses beyond this machine that it asked for; none was answered.
      requests: all addresses that it asked for.
    """

    page: Any
    errors: list[str] = dataclasses.field(default_factory=list)
    outside: list[str] = dataclasses.field(default_factory=list)
    requests: list[str] = dataclasses.field(default_factory=list)

    @property
    def overflow(self) -> int:
        """By how many pixels it is wider than the window."""
        return self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )

    def violations(self) -> list[str]:
        """What axe finds against accessibility, with the elements concerned."""
        reason = "needs axe-playwright-python"
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=reason)
        found = axe.Axe().run(self.page).response["violations"]
        return [
            f"{rule['id']}: {rule['help']}: {[node['html'][:200] for node in rule['nodes'][:4]]}"
            for rule in found
        ]


@contextlib.contextmanager
def opened(
    browser: Any,
    address: str | Path,
    *,
    width: int = 1200,
    height: int = 900,
    theme: Literal["light", "dark"] = "light",
    media: Literal["screen", "print"] = "screen",
) -> Iterator[Opened]:
    """A page of a file or of a server on this machine, watched from its first request on."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=theme, bypass_csp=True
    )
    try:
        found = Opened(context.new_page())

        def pass_on(route: Any) -> None:
            address = urlsplit(route.request.url)
            found.requests.append(route.request.url)
            if address.scheme in ("http", "https", "ws", "wss") and address.hostname not in _HERE:
                found.outside.append(route.request.url)
                route.abort()
            else:
                route.continue_()

        def note(message: Any) -> None:
            if message.type in ("error", "warning"):
                found.errors.append(message.text)

        context.route("**/*", pass_on)
        found.page.on("console", note)
        found.page.on("pageerror", lambda error: found.errors.append(str(error)))
        found.page.emulate_media(media=media, color_scheme=theme)
        found.page.goto(address.resolve().as_uri() if isinstance(address, Path) else address)
        yield found
    finally:
        context.close()
