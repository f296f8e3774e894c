"""The pages of the documentation: their blocks of code, and the names that they speak of."""

import dataclasses
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

# A block with a title is somebody else's code, or needs what a reader has and a test has not.
# It is parsed and not run, and its title says why.
TITLES = re.compile(
    r"(Opacus|JAX-Privacy|TensorFlow Privacy|TensorFlow Federated|Needs .+|With Keras alone)"
)
_FENCE = re.compile(
    r"^(?P<mark>`{3,})(?P<language>[\w-]*)[ ]*(?P<options>[^\n]*)\n(?P<code>.*?)^(?P=mark)[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_TITLE = re.compile(r'title="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
      page: where it stands.
      line: of its first line of code.
      language: after the fence.
      title: why it is not run, or None.
      code: what is in it.
    """

    page: Path
    line: int
    language: str
    title: str | None
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """All of them: README's, examples' and the site's; not what the tutorials' tests execute."""
    found = [p for p in DOCS.rglob("*.md") if p.parent.name != "tutorials"]
    return [ROOT / "README.md", *sorted((ROOT / "examples").rglob("*.md")), *sorted(found)]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        title = _TITLE.search(match["options"])
        line = text.count("\n", 0, match.start("code")) + 1
        name = None if title is None else title[1]
        found.append(Block(page, line, match["language"], name, match["code"]))
    return found


def without_blocks(page: Path) -> str:
    """The text between the blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))
