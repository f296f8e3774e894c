"""The site: built as `make docs` builds it, complete, and whole without a network."""

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

import pages as documentation
import pytest
from browser import browser, opened

__all__ = ["browser"]

# Attributes that a browser follows when a page is opened, not when a reader clicks.
_LOADED = {
    "script": ("src",),
    "link": ("href",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "iframe": ("src",),
    "object": ("data",),
    "use": ("href",),
}
# Relations of <link> that are not fetched.
_NOT_FETCHED = {"canonical", "next", "prev", "edit"}
_CSS = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    for module in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}: make docs installs it, or pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    done = subprocess.run(command, cwd=documentation.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Page(HTMLParser):
    def __init__(self, file):
        super().__init__()
        self.loaded, self.links, self.ids = [], [], set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found.get("id"), found.get("name")}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag == "link" and set((found.get("rel") or "").split()) & _NOT_FETCHED:
            return
        self.loaded += [found[name] for name in _LOADED.get(tag, ()) if found.get(name)]
        self.loaded += [a or b for a, b in _CSS.findall(found.get("style") or "")]


@pytest.fixture(scope="session")
def read(site):
    return {file: _Page(file) for file in site.rglob("*.html")}


def test_every_page_is_in_it(site):
    sources = {p.relative_to(documentation.DOCS) for p in documentation.DOCS.rglob("*.md")}
    made = {
        path.parent / ("index.html" if path.name == "README.md" else f"{path.stem}.html")
        for path in sources
    }
    assert {path for path in made if not (site / path).is_file()} == set()


def test_every_page_is_in_its_navigation(site):
    start = (site / "index.html").read_text(encoding="utf-8")
    shown = set(re.findall(r'class="md-nav__link[^"]*"|href="([^"#]+\.html)', start))
    for path in documentation.DOCS.rglob("*.md"):
        if path.name in ("README.md", "index.md"):
            continue
        assert str(path.relative_to(documentation.DOCS).with_suffix(".html")) in shown, path


def test_nothing_is_fetched_from_elsewhere(site, read):
    outside = [
        f"{file.relative_to(site)}: {address}"
        for file, page in read.items()
        for address in page.loaded
        if urlsplit(address).netloc
    ]
    for sheet in site.rglob("*.css"):
        for found in _CSS.findall(sheet.read_text(encoding="utf-8")):
            address = found[0] or found[1]
            if urlsplit(address).netloc and not address.startswith("data:"):
                outside.append(f"{sheet.relative_to(site)}: {address}")
    assert outside == []


def test_links_lead_somewhere(site, read):
    lost = []
    for file, page in read.items():
        if file.name == "404.html":  # its links are from the site's root, wherever that is
            continue
        for link in page.links:
            if urlsplit(link).scheme or urlsplit(link).netloc:
                continue
            path, fragment = urldefrag(link)
            target = (file.parent / path).resolve() if path else file
            target = target / "index.html" if target.is_dir() else target
            known = read[target].ids if target in read else {fragment}
            if not target.is_file() or (fragment and fragment not in known):
                lost.append(f"{file.relative_to(site)}: {link}")
    assert lost == []


def test_links_between_files_lead_somewhere():
    """In README and beside the examples, which are no part of the site."""
    for page in (p for p in documentation.pages() if documentation.DOCS not in p.parents):
        text = documentation.without_blocks(page)
        for link in re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text):
            target = urldefrag(link[0] or link[1]).url
            assert "://" in target or (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", documentation.pages(), ids=lambda p: p.name)
def test_files_that_are_named_are_there(page):
    spans = re.findall(r"`([^`\n]+)`", documentation.without_blocks(page))
    files = [f for s in spans for f in re.findall(r"\b(?:tests|examples|benchmarks)/[\w./-]+", s)]
    assert [file for file in files if not (documentation.ROOT / file).exists()] == []


def test_pictures_are_there_for_light_and_dark():
    """Each that a script makes is shown, in both; and what is shown is made by it."""
    folder = documentation.DOCS / "pictures"
    made = {f"{name}{suffix}" for name in _pictures(folder) for suffix in (".svg", "-dark.svg")}
    assert {path.name for path in folder.glob("*.svg")} == made
    text = "".join(page.read_text() for page in documentation.pages())
    shown = set(re.findall(r"pictures/([\w-]+\.svg)", text))
    assert shown == made
    for name in made:
        follows = "#only-dark" if name.endswith("-dark.svg") else "#only-light"
        used = re.findall(rf"pictures/{re.escape(name)}(\S*?)[)\"]", text)
        assert set(used) <= {follows, ""}, name


def _pictures(folder):
    found = re.search(r"for made in \(([\w, ]+)\)", (folder / "make.py").read_text())
    assert found is not None
    return re.findall(r"\w+", found[1])


@pytest.mark.parametrize(("width", "theme"), [(1200, "light"), (360, "dark")])
@pytest.mark.parametrize("page", ["index", "epsilon", "reference/hushgrad"])
def test_in_a_browser(browser, site, page, theme, width):
    with opened(browser, site / f"{page}.html", width=width, theme=theme) as found:
        assert found.overflow <= 0
        assert found.outside == []
        assert found.errors == []
        pictures = "[...document.images].filter(i => i.offsetParent && !i.naturalWidth).length"
        assert found.page.evaluate(pictures) == 0


def test_the_search_needs_no_server(browser, site):
    with opened(browser, site / "reference" / "clip.html") as found:
        found.page.get_by_role("textbox", name="Search").click()
        # Until its index is there nothing that is typed is looked up.
        found.page.get_by_text("Type to start searching").wait_for()
        found.page.get_by_role("textbox", name="Search").press_sequentially("posterior")
        found.page.get_by_role("listitem").get_by_text("posterior").first.wait_for()
        assert found.outside == []
        assert found.errors == []


@pytest.mark.parametrize("name", ["clipping", "peers"])
def test_pictures_can_be_made_again(name):
    """The quick ones; the others in about half a minute, by hand."""
    mpl = pytest.importorskip("matplotlib")
    mpl.use("agg")
    spec = importlib.util.spec_from_file_location("make", documentation.DOCS / "pictures/make.py")
    assert spec is not None
    assert spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    for theme in make.THEMES.values():
        with mpl.rc_context(make.settings(*theme)):
            figure = make.PICTURES[name]()
        assert len(figure.axes) >= 1
        mpl.pyplot.close(figure)
