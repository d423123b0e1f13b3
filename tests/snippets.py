"""Blocks of code on the documentation's pages, and the command lines in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("README.md")),
    ROOT / "runtime" / "README.md",
]
GENERATED = ("docs/cli.md",)  # from the parsers: tests/test_cli_docs.py
LANGUAGES = ("bash", "python", "yaml", "text")
_FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is its fence's, counted from 1."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self):
        return f"{self.page}:{self.line}"

    def begins(self, start):
        return self.text.startswith(start)


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page):
    """The blocks of one page, without the indentation of a list they stand in."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        indent, language, body = match.groups()
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        yield Block(name_of(page), text[: match.start()].count("\n") + 1, language, "\n".join(lines) + "\n")


def prose(page):
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def command_lines(text):
    """The commands of a shell block, each as its words, without comments; `&&` and pipes separate commands."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        words = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word not in ("&&", "|", ";"):
                words.append(word)
            elif words:
                yield words
                words = []


ALL = [block for page in PAGES if name_of(page) not in GENERATED for block in blocks(page)]
