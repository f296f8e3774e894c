"""The file: what is in it, what is escaped, and what it takes to make it."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hushgrad as hg
from hushgrad.errors import InputError

ROOT = Path(__file__).parents[2]
EVIL = """<script>alert('x')</script>"><img src=x onerror=alert(1)>&{{ 7 * 7 }}"""


def embedded(text, name="hushgrad-report"):
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.S)
    assert found is not None
    return json.loads(found[1])


def test_the_facts_are_in_it_for_machines(finished):
    text = hg.report.html(finished)
    assert embedded(text) == hg.report.facts(finished)
    comparison = hg.report.comparison_html([finished])
    assert embedded(comparison, "hushgrad-comparison") == hg.report.comparison([finished])


def test_it_asks_for_nothing(finished, audited):
    for run in (finished, *audited.values()):
        text = hg.report.html(run)
        addresses = set(re.findall(r"https?://[^\s\"'<]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        assert not re.search(r"<(link|img|iframe|object|embed|base|form)\b", text)
        assert not re.search(r"url\((?!#)|@import|@font-face", text)
        assert len(re.findall("<script", text)) == 1
        ids = re.findall(r'\bid="([^"]+)"', text)
        assert len(ids) == len(set(ids))


def test_what_users_name_is_escaped(finished, copied):
    place = copied(finished.directory, EVIL.replace("/", "-"))
    content = json.loads((place / "run.json").read_text())
    content["identity"]["budget"], content["versions"] = EVIL, {EVIL: EVIL}
    (place / "run.json").write_text(json.dumps(content))
    for text in (
        hg.report.html(place),
        hg.report.html(place, title=EVIL),
        hg.report.html(place, title=EVIL, public=True),
        hg.report.comparison_html([place, finished]),
    ):
        assert text.count("<script") == 1
        assert "<img" not in text
        assert "&lt;script&gt;alert(" in text
        assert "&{{ 7" in text or "&amp;{{ 7" in text or "\\u0026{{ 7" in text
    assert embedded(hg.report.html(place, title=EVIL))["title"] == EVIL


def test_every_picture_has_words(finished, audited):
    for run in (finished, audited["gradient"]):
        text = hg.report.html(run)
        pictures = re.findall(r'<svg [^>]*role="img" aria-labelledby="(\S+) (\S+)">', text)
        assert len(pictures) >= 8
        for title, description in pictures:
            assert re.search(rf'<title id="{title}">.+?</title>', text)
            assert re.search(rf'<desc id="{description}">.+?</desc>', text)
        # Their colours are the page's, in either theme.
        drawn = "".join(re.findall(r"<svg viewBox.*?</svg>", text, re.S))
        assert not re.findall(r"#[0-9a-f]{6}\b", drawn)


def test_the_same_run_makes_the_same_file(finished):
    assert hg.report.html(finished) == hg.report.html(finished)


def test_importing_it_loads_neither_templates_nor_plots():
    code = (
        "import sys, hushgrad, hushgrad.report, hushgrad.cli.app\n"
        "assert hushgrad.report.facts\n"
        "print([name for name in ('jinja2', 'matplotlib', 'markupsafe') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["jinja2", "matplotlib"])
def test_what_is_missing_is_named(finished, monkeypatch, name):
    from hushgrad.report.page import environment

    environment.cache_clear()
    monkeypatch.setitem(sys.modules, name, None)
    for make in (hg.report.html, lambda run: hg.report.comparison_html([run])):
        with pytest.raises(InputError, match=r"pip install 'hushgrad\[report\]'"):
            make(finished)
    assert hg.report.facts(finished)["trusted"]  # facts do without


def test_the_wheel_holds_the_templates(tmp_path):
    pytest.importorskip("hatchling", reason="needs hatchling, which builds the wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    for file in (ROOT / "src/hushgrad/report/templates").iterdir():
        assert f"hushgrad/report/templates/{file.name}" in held


def test_comparison(finished, broken_off, tmp_path):
    told = hg.report.comparison([finished, broken_off])
    first, second = told["runs"]
    assert (first["epsilon"], first["score"], first["state"]) == (finished.epsilon, 0.5, "finished")
    assert (second["steps_charged"], second["steps_planned"]) == (7, 12)
    assert second["state"] == "unfinished"
    assert "Together the runs tell more" in told["remarks"][-1]
    at = hg.report.comparison([finished], delta=1e-6)["runs"][0]
    assert at["epsilon"] == finished.mechanism.epsilon(delta=1e-6)
    (tmp_path / "bare").mkdir()
    bare = tmp_path / "bare"
    for part in ("run.json", "ledger.sqlite"):
        (bare / part).write_bytes((finished.directory / part).read_bytes())
    (row,) = hg.report.comparison([bare])["runs"]
    assert row["score"] is None
    assert "no score" in row["missing"][0]
    assert "No run has both" in hg.report.comparison_html([bare])
    for wrong in ([], "runs/a"):
        with pytest.raises(InputError, match="runs must be a list"):
            hg.report.comparison(wrong)
