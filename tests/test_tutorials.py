"""The tutorials, as they are: the blocks of a page one after the other, in one folder, by one reader."""

import re
import shlex
from pathlib import Path

import pytest

from dense_ctx import cli

PAGES = sorted((Path(__file__).parent.parent / "docs" / "start").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] if page.stem == "compare" else [], id=page.stem) for page in PAGES],
)
def test_a_tutorial_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks, names = BLOCK.findall(page.read_text(encoding="utf-8")), {}
    assert {language for language, _ in blocks} <= {"python", "bash", "text"}
    assert sum(language != "text" for language, _ in blocks) >= 2
    for language, text in blocks:
        if language == "python":
            exec(compile(text, page.name, "exec"), names)
        elif language == "bash":
            for line in text.splitlines():
                program, *words = shlex.split(line, comments=True)
                if (program, *words[:1]) in (("pip", "install"), ("dense-ctx", "explore")):
                    continue  # a step of .ci/run; a server, which tests/test_explore_page.py runs
                assert program == "dense-ctx"
                assert cli.main(words) == 0, line


def test_each_persona_has_one():
    assert [page.stem for page in PAGES] == ["annotate", "compare", "plugin", "train"]
