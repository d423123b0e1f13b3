"""docs/http_api.md is what the routes say; the page's files are what it names; every key is in the list."""

import re
import runpy
from pathlib import Path

import dense_ctx_explore
import pytest
from dense_ctx_explore.edits import FIELDS
from dense_ctx_explore.routes import ENDPOINTS

ROOT = Path(__file__).parent.parent
PAGE = Path(dense_ctx_explore.__file__).parent / "page"
FILES = {path.name: path.read_text(encoding="utf-8") for path in PAGE.iterdir()}


def test_the_page_about_http_is_written_from_the_routes():
    maker = runpy.run_path(str(ROOT / "docs" / "make_http_api.py"))
    text = maker["FILE"].read_text(encoding="utf-8")
    assert text == maker["page"](), "run python docs/make_http_api.py"
    for point in ENDPOINTS:
        assert f"### {point.method} {point.path.replace(':int', '')}\n" in text
        assert point.handler.__doc__


def test_parameters_of_handlers_are_documented():
    """Each name that a handler asks a query for is in its docstring, or that of the first map."""
    source = {}
    for module in ("maps", "changes", "labels"):
        text = (PAGE.parent / f"{module}.py").read_text(encoding="utf-8")
        for name, body in re.findall(
            r"^async def (\w+)\(request.*?:\n(.*?)(?=^async def |^def |\Z)", text, re.M | re.S
        ):
            source[name] = body
    asked = 0
    for point in ENDPOINTS:
        body, doc = source[point.handler.__name__], point.handler.__doc__
        for name in re.findall(r'(?:number|whole)\(request, "(\w+)"|query_params\.get\("(\w+)"', body):
            assert f"{name[0] or name[1]}" in doc, (point.path, name)
            asked += 1
    assert asked > 6


def test_the_page_names_only_its_own_files():
    names = set()
    for name, text in FILES.items():
        assert not re.search(r"""(?:src|href|url\(|from|import)\s*[=(]?\s*["']?(?:https?:)?//""", text), (
            f"{name} fetches from elsewhere"
        )
        names |= set(re.findall(r"/page/([\w.-]+)", text)) | set(re.findall(r'from "\./([\w.-]+)"', text))
    assert names == set(FILES) - {"index.html"}
    assert "eval(" not in "".join(FILES.values())
    assert not re.search(r'\son\w+="|<script>|<style|style="', FILES["index.html"]), "the page's policy would refuse it"


def test_the_script_looks_for_parts_that_the_page_has():
    ids = set(re.findall(r'id="([\w-]+)"', FILES["index.html"]))
    scripts = "\n".join(text for name, text in FILES.items() if name.endswith(".js"))
    assert set(re.findall(r'\$\("([\w-]+)"\)', scripts)) <= ids
    assert set(re.findall(r'press\("([\w-]+)"\)', scripts)) <= ids
    icons = set(re.findall(r'href="#([\w-]+)"', FILES["index.html"] + scripts)) | set(
        re.findall(r'"#(i-[\w]+)"', scripts)
    )
    assert icons <= ids


def test_the_script_sends_edits_and_paths_that_there_are():
    scripts = "\n".join(text for name, text in FILES.items() if name.endswith(".js"))
    sent = set(re.findall(r'edit: "([\w-]+)"', scripts))
    assert sent == set(FIELDS)
    paths = {re.sub(r"\{\w+(:int)?\}", "*", point.path) for point in ENDPOINTS}
    used = {re.sub(r"\$\{[^}]*\}", "*", path) for path in re.findall(r'["`](/api/[^"`?]*)', scripts)}
    routes = {path if path != "/api/items/*/*" else "" for path in used} - {""}
    assert routes <= paths
    assert {"/api/state", "/api/edits", "/api/changes", "/api/import", "/api/export"} <= routes


def test_every_key_is_in_the_list():
    keys, listed = (
        FILES["keys.js"].split("export function setUp")[1],
        FILES["keys.js"].split("export function setUp")[0],
    )
    for key in re.findall(r"[ {,](\w): (?:\(\)|press|actions)", keys):
        assert re.search(rf'["\s]{key}["\s]', listed), key


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".js", ".css", ".html"))])
def test_files_are_small_and_have_no_long_line(name):
    lines = FILES[name].splitlines()
    assert len(lines) <= 300
    assert max(map(len, lines)) <= (400 if name == "index.html" else 220)
