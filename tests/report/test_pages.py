"""Reports in a real browser: they render, in light and dark, on paper and on a telephone."""

import pytest
from browser import browser, opened
from reported import one_row_changed

import hushgrad as hg

__all__ = ["browser"]

PAGES = ("full", "public", "unfinished", "tampered", "compared", "audited")


@pytest.fixture(scope="module")
def pages(finished, broken_off, audited, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    damaged = folder / "damaged"
    damaged.mkdir()
    for part in ("run.json", "ledger.sqlite", "metrics.jsonl"):
        (damaged / part).write_bytes((finished.directory / part).read_bytes())
    one_row_changed(damaged)
    made = {
        "full": hg.report.html(finished, title="A run with rather a long name " * 2),
        "public": hg.report.html(audited["gradient"], public=True),
        "unfinished": hg.report.html(broken_off),
        "tampered": hg.report.html(damaged),
        "compared": hg.report.comparison_html([finished, broken_off, damaged]),
        "audited": hg.report.html(audited["rows"]),
    }
    for name, text in made.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in made}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_it_renders_for_everybody(browser, pages, name, theme):
    with opened(browser, pages[name], theme=theme) as seen:
        seen.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert seen.errors == []
        assert seen.requests == [pages[name].as_uri()]
        assert seen.overflow == 0
        assert seen.violations() == []


@pytest.mark.parametrize("name", PAGES)
def test_it_fits_a_telephone(browser, pages, name):
    with opened(browser, pages[name], width=360, height=740) as seen:
        seen.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert seen.overflow == 0
        assert seen.violations() == []
        sizes = seen.page.eval_on_selector_all(
            "figure svg text", "all => all.map(t => t.getBoundingClientRect().height)"
        )
        assert all(size > 8 for size in sizes)


def colour(seen, selector, what):
    return seen.page.eval_on_selector(selector, f"e => getComputedStyle(e).{what}")


def test_pictures_take_the_colours_of_the_theme(browser, pages):
    inks = []
    for theme in ("light", "dark"):
        with opened(browser, pages["full"], theme=theme) as seen:
            inks.append((colour(seen, "figure svg text", "fill"), colour(seen, "html", "color")))
    assert inks[0][0] != inks[1][0]
    assert inks[0][1] != inks[1][1]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_on_paper_it_can_be_signed(browser, pages, theme):
    with opened(browser, pages["full"], theme=theme) as seen:
        assert not seen.page.is_visible(".sign")
    with opened(browser, pages["full"], theme=theme, media="print") as seen:
        assert seen.page.is_visible("text=Signature")
        assert colour(seen, "html", "backgroundColor") == "rgb(255, 255, 255)"
        assert colour(seen, "html", "color") == "rgb(0, 0, 0)"
        assert seen.page.pdf(format="A4").startswith(b"%PDF")
    with opened(browser, pages["tampered"], media="print") as seen:
        assert not seen.page.is_visible("text=Signature")
        assert seen.page.is_visible("text=Not to be signed")


def test_an_alarm_is_above_all_that_is_said(browser, pages):
    """At the top of the first screen, larger than any text that follows."""
    with opened(browser, pages["tampered"]) as seen:
        box = seen.page.locator(".notice.alarm").bounding_box()
        assert box["y"] + box["height"] < 900
        assert box["width"] > 1000
        assert seen.page.is_visible("text=ledger not trusted")
        figure = seen.page.locator(".first .figure")
        assert figure.inner_text() == "unknown"
        assert box["y"] < figure.bounding_box()["y"]
