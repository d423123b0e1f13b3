"""What the documentation names exists: modules and their attributes, files, links."""

import importlib
import re
from pathlib import Path

import pytest

import dense_ctx

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / name
    for name in ("README.md", "CONTRIBUTING.md", "examples/plugin_template/README.md", "examples/space/README.md")
]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
SOURCES = sorted([*(ROOT / "dense_ctx").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")])
DOTTED = re.compile(r"(?<![\w./-])dense_ctx\w*(?:\.[A-Za-z_]\w*)+")
IMPORT = re.compile(r"^\s*from (dense_ctx[\w.]*) import ([\w, ]+)", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([\w./-]+\.\w+)")
FILE = re.compile(
    r"(?<![\w./:-])(?:dense_ctx|plugins|examples|benchmarks|docs|tests)(?:/[\w.-]+)+\.(?:py|md|yaml|json)"
)
INVENTED = ("dense_ctx_yours", "dense_ctx_template", "tests/test_yours")  # of the plugin template
MARKS = re.compile(r"`[^`\n]*`")


def names(text):
    """Dotted names below dense_ctx and its plugins, those of imports among them."""
    dotted = set(DOTTED.findall(text))
    for module, imported in IMPORT.findall(text):
        dotted |= {f"{module}.{name.split()[0]}" for name in imported.split(",") if name.strip()}
    return sorted(name for name in dotted if not name.startswith(INVENTED))


def resolves(name):
    """Whether a dotted name is a module, or an attribute in one, at any depth."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        try:
            for part in parts[length:]:
                value = getattr(value, part)
        except AttributeError:
            return part in getattr(value, "__annotations__", {})
        return True
    return False


def identify(page):
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_names_on_a_page_resolve(page):
    assert [name for name in names(page.read_text(encoding="utf-8")) if not resolves(name)] == []


def test_names_in_docstrings_and_comments_resolve():
    broken = []
    for path in SOURCES:
        marked = " ".join(MARKS.findall(path.read_text(encoding="utf-8")))
        broken += [f"{identify(path)}: {name}" for name in names(marked) if not resolves(name)]
    assert broken == []


def test_new_names_of_the_changelog_s_table_resolve():
    table = re.findall(r"^\| `dense_ctx[^|]*\| ([^|]*) \|$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert len(table) > 10
    assert [name for name in names("\n".join(table)) if not resolves(name)] == []


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_links_and_files_on_a_page_exist(page):
    text = page.read_text(encoding="utf-8")
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    missing += [file for file in FILE.findall(text) if not file.startswith(INVENTED) and not (ROOT / file).exists()]
    assert missing == []


def test_the_search_sees_what_is_gone():
    text = (
        "`dense_ctx.datasets`, dense_ctx.interfaces.Probe.incremental\n  from dense_ctx.evaluate import evaluate, gone"
    )
    assert [name for name in names(text) if not resolves(name)] == [
        "dense_ctx.datasets", "dense_ctx.evaluate.gone", "dense_ctx.interfaces.Probe.incremental"]  # fmt: skip
    assert resolves("dense_ctx.evaluate.evaluate")
    assert resolves("dense_ctx.interfaces.Decoder.dim")


def test_the_architecture_page_names_every_room_and_kind():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [path.parent.name for path in (ROOT / "dense_ctx").glob("*/__init__.py")]
    plugins = [path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py")]
    for name in [*rooms, *plugins]:
        assert f"  {name}/ " in text, name
    table = re.findall(r"^\| `([\w-]+)` \| .* \| (.*) \| .* \|$", text, re.MULTILINE)
    kinds = dense_ctx.registry().kinds
    assert {kind for kind, _ in table} == set(kinds)
    for kind, interface in table:
        base = kinds[kind].base
        assert base is None or f"`{base.replace(':', '.')}`" == interface


def test_the_index_links_every_page():
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")} - {"README.md"}
    assert pages <= set(LINK.findall(text))
