"""The documentation as a site: it builds strictly, asks no other host for anything, and has every page."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from wheel_site import ROOT

import dense_ctx


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if find_spec("mkdocs") is None or find_spec("mkdocstrings") is None:
        pytest.skip("the extra docs is not installed")
    out = tmp_path_factory.mktemp("site")
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT, env={**os.environ, **proxies}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_of_the_repository_is_there(site):
    for page in (ROOT / "docs").rglob("*.md"):
        place = page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        assert (site / ("index.html" if place == "README" else f"{place}/index.html")).is_file(), place
    assert "Write a plugin" in (site / "contributing" / "index.html").read_text(encoding="utf-8")


def test_nothing_is_asked_of_another_host(site):
    loads = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=[\"']?(https?:[^\"'\s>]*)")
    for page in site.rglob("*.html"):
        assert loads.findall(page.read_text(encoding="utf-8")) == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?https?:", sheet.read_text(encoding="utf-8")), sheet


def test_the_reference_has_every_public_name_with_its_text(site):
    text = (site / "reference" / "index.html").read_text(encoding="utf-8")
    for name, module in dense_ctx._LAZY.items():
        assert f'id="dense_ctx.{module}.{name}"' in text
    assert "Fit" in text
    assert "MemoryBudgetError" in text
