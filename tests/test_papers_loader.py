"""Asking for a paper's table, printing it beside our own rows, and the files in the wheel."""

import dataclasses
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from dense_ctx_benchmarks import papers

from dense_ctx.errors import ConfigError, InputError, UnknownNameError

ROOT = Path(__file__).parent.parent


def test_a_table_cannot_be_changed():
    table = papers.table("lila:table1")
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.rows[0].name = "x"
    with pytest.raises(TypeError):
        table.rows[0].values["linear_jf"] = 99.0
    with pytest.raises(TypeError):
        table.columns["x"] = table.columns["linear_jf"]
    assert papers.table("lila:table1").rows[0].values["linear_jf"] == 49.0


@pytest.mark.parametrize("name", ["flowfeat", "flowfeat:table1", "", ":table1"])
def test_unknown_paper(name):
    with pytest.raises(UnknownNameError, match=r"Unknown paper .* Known: .*lila, maxa"):
        papers.table(name)


@pytest.mark.parametrize("name", ["lila", "lila:", "lila:table7", "lila:Table1", "lila:table1 "])
def test_unknown_table(name):
    with pytest.raises(UnknownNameError, match=r"lila has lila:table1, .*lila:table6\.$"):
        papers.table(name)


def test_other_misuse():
    with pytest.raises(UnknownNameError, match="Unknown paper 'x'"):
        papers.names("x")
    with pytest.raises(InputError, match="by name, such as 'lila:table1'; got int: 1"):
        papers.table(1)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split(" | ")]


@pytest.mark.parametrize("name", papers.names())
def test_render_prints_every_row_and_number_aligned(name):
    table = papers.table(name)
    head, rule, *lines = table.render().splitlines()
    assert len({len(line) for line in (head, rule, *lines)}) == 1
    assert len(lines) == len(table.rows)
    assert rule.count("|") == head.count("|") == len(table.columns) + 3
    for row, line in zip(table.rows, lines, strict=True):
        method, _, *numbers = cells(line)
        assert method == row.name
        assert [None if text == "-" else float(text) for text in numbers] == list(row.values.values())


def test_render_marks_our_rows_and_keeps_the_decimals():
    table = papers.table("lila:table2")
    head, *_, ours, other = table.render([("mine", {"normals_rmse": 30}), ("a|b\nc", {"coco_miou": None})]).splitlines()
    assert "normals_rmse [deg] ↓" in head
    assert "coco_miou [%] ↑" in head
    assert cells(ours)[:4] == ["mine (ours, dense_ctx)", "-", "30.00", "-"]
    assert cells(other)[0] == r"a\|b c (ours, dense_ctx)"
    assert set(cells(other)[1:]) == {"-"}
    assert "ours" not in table.render()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("mine", {"jf": 1.0}), "'mine': lila:table6 has no column 'jf'; it has linear_jf, linear_j, linear_f"),
        (("mine", {"linear_jf": float("nan")}), "column 'linear_jf': expected a finite number.*got nan"),
        (("mine", {"linear_jf": float("inf")}), "got inf"),
        (("mine", {"linear_jf": "61.2"}), "got '61.2'"),
        (("mine", {"linear_jf": True}), "got True"),
        (("mine", [61.2]), "An extra row of lila:table6 is"),
        ("mine", "An extra row of lila:table6 is"),
    ],
)
def test_extra_rows_are_checked(extra, message):
    with pytest.raises(InputError, match=message):
        papers.table("lila:table6").render([extra])


def test_loads_no_torch():
    code = (
        "import sys; from dense_ctx_benchmarks import papers; "
        "papers.table('lila:table1').render(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="not a source tree")
def test_the_wheel_has_the_files(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = zipfile.ZipFile(wheel).namelist()
    assert {f"dense_ctx_benchmarks/papers/{paper}.json" for paper in ("lila", "maxa", "dip")} <= set(inside)


TABLE = {"title": "t", "protocol": {"a": None}, "columns": {"a": {"metric": "a", "unit": "", "higher_is_better": True}}}
ROW = {"name": "r", "backbone": None, "data": None, "values": {"a": 1.0}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "paper 'theirs' is not JSON"),
        ("[1]", "paper 'theirs' is not {"),
        ({"rows": [{**ROW, "values": {}}]}, r"table theirs:t is malformed: .*row 'r' has "),
        ({"rows": [{**ROW, "colour": 1}]}, "table theirs:t is malformed: .*colour"),
        ({"rows": [ROW], "protocol": {}}, "table theirs:t is malformed: KeyError: 'a'"),
        ({}, "table theirs:t is malformed: KeyError: 'rows'"),
    ],
)
def test_a_malformed_paper_is_named(tmp_path, monkeypatch, text, message):
    document = {"title": "p", "source": "s", "tables": {"t": {**TABLE, **text}}} if isinstance(text, dict) else text
    path = tmp_path / "theirs.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    monkeypatch.setattr(papers, "registry", lambda: SimpleNamespace(file=lambda kind, name: path))
    papers._file.cache_clear()
    with pytest.raises(ConfigError, match=message):
        papers.table("theirs:t")
    papers._file.cache_clear()
