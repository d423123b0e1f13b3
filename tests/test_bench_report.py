"""Names, axes and places in a benchmark's table and plots, from records made by hand."""

import re
from xml.etree import ElementTree

import pytest
from dense_ctx_bench.plot import Point, _ticks, scatter
from dense_ctx_bench.report import page, plots
from dense_ctx_bench.table import markdown

SVG = "{http://www.w3.org/2000/svg}"


def record(backbone=None, head=None, objective="maxa-depth", seed=0, value=1.0, **task):
    backbone, head = backbone or ("b", {}), head or ("h", {})
    data = task.pop("data", {"name": "rgbd-folder", "root": "x"})
    splits = {"train": "train", "val": "val"}
    settings = {
        "backbone": dict(zip(("name", "args"), backbone, strict=True)),
        "head": dict(zip(("name", "args"), head, strict=True)),
        "task": {"objective": objective, "data": data, **splits, "steps": None, "lr": None, **task},
        "seed": seed, "size": [16, 24], "steps": 5, "batch_size": 2, "held_out": 0.1,
    }  # fmt: skip
    return {
        "settings": settings, "status": "done", "metric": "rmse", "lower_is_better": True, "value": value,
        "learnt": 10, "backbone_seconds": 0.02, "head_seconds": 0.01,
    }  # fmt: skip


def rows(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_what_all_heads_share_is_said_once():
    layers = {"layers": [-2, -1]}
    text = markdown([
        record(head=("maxa", layers)), record(head=("maxa", {**layers, "sigma": "none"})), record(head=("cnn", layers)),
    ])  # fmt: skip
    assert [row[1] for row in rows(text)[2:]] == ["maxa", "maxa(sigma=none)", "cnn"]
    assert "All heads: layers=[-2, -1]" in text
    only = markdown([record(head=("maxa", layers), backbone=("net", {"weights": None}))])
    assert rows(only)[2][:2] == ["net(weights=null)", "maxa(layers=[-2, -1])"]
    assert "All" not in only


@pytest.mark.parametrize(
    ("tasks", "names"),
    [
        (
            [{"data": {"name": "camvid", "root": "a"}}, {"data": {"name": "voc2012", "root": "b"}}],
            ["camvid", "voc2012"],
        ),
        ([{"lr": 0.1}, {"lr": None}], ["lr=0.1", None]),
        ([{"data": {"name": "n", "root": "a"}}, {"data": {"name": "n", "root": "b"}}], ["root=a", "root=b"]),
    ],
)
def test_tasks_of_one_objective_are_columns_of_their_own(tasks, names):
    text = markdown([record(value=number, **task) for number, task in enumerate(tasks, start=1)])
    heads = [f"maxa-depth({name}): rmse ↓" if name else "maxa-depth: rmse ↓" for name in names]
    assert rows(text)[0][3:] == heads
    assert rows(text)[2][3:] == ["**1**", "**2**"]


def test_points_lie_where_their_numbers_say():
    points = [Point(10, 1.0, "a", "x"), Point(20, 3.0, "b", "x", dy=0.5), Point(30, 2.0, "b", "y")]
    tree = ElementTree.fromstring(scatter(points, "ms", "score ↓ <1", ["a", "b"], ["x", "y"]))
    circles = [group.find(f"{SVG}circle") for group in tree.findall(f"{SVG}g")]
    places = [(float(c.get("cx")), float(c.get("cy")), c.get("fill")) for c in circles if c is not None]
    assert len(places) == 2  # head y has another shape
    assert places[0][0] < places[1][0]
    assert places[0][1] > places[1][1]  # upwards
    assert places[0][2] != places[1][2]
    # against the labels of the axes: x = 10 and 20 are two of the ticks
    ticks = {
        t.text: float(t.get("x")) for t in tree.findall(f"{SVG}text") if t.get("text-anchor") == "middle" and t.get("x")
    }
    assert places[0][0] == pytest.approx(ticks["10"], abs=0.2)
    assert places[1][0] == pytest.approx(ticks["20"], abs=0.2)
    assert "score ↓ <1" in [t.text for t in tree.findall(f"{SVG}text")]


@pytest.mark.parametrize("values", [[0.4], [0.0], [1e-9, 5e9], [-3.0, -2.0], [0.501, 0.502]])
def test_ticks_are_round_and_reach_around(values):
    ticks = _ticks(values)
    assert ticks[0] <= min(values)
    assert ticks[-1] >= max(values)
    assert 2 <= len(ticks) <= 8


def test_no_mark_lies_on_the_axis_but_at_zero():
    for low, high in ((26.0, 34.0), (0.54, 0.56), (-2.0, 3.0)):
        ticks = _ticks([low, high])
        assert ticks[0] < low
        assert ticks[-1] > high
    assert _ticks([0.0, 0.4])[0] == 0


def test_nothing_is_drawn_of_failures():
    bad = {**record(), "status": "failed", "error": "FileError: <gone>"}
    assert plots([bad]) == {}
    assert "&lt;gone&gt;" in page([bad])
    assert "<svg" not in page([bad])
    both = [record(seed=0, value=1.0), record(seed=1, value=2.0), record(objective="maxa-normals", value=5.0), bad]
    charts = plots(both)
    assert list(charts) == ["legend", "speed-maxa-depth", "speed-maxa-normals", "maxa-depth-maxa-normals"]
    assert "b + h: 30, 1.5" in charts["speed-maxa-depth"]
    assert re.search(r"2 seeds; outputs 16 x 24; 5 steps of 2 images", page(both))


def test_units_stand_beside_the_metric():
    cells = [{**record(), "unit": "m"}, {**record(objective="maxa-boundaries"), "metric": "iou", "unit": ""}]
    assert rows(markdown(cells))[0][3:] == ["maxa-depth: rmse (m) ↓", "maxa-boundaries: iou ↓"]
    assert "maxa-depth: rmse (m) ↓" in plots(cells)["speed-maxa-depth"]


def test_other_programs_slow_no_backbone_in_the_plot():
    busy = {**record(("net", {"width": 2})), "backbone_seconds": 0.5}
    untrained = {**record(("net", {"width": 2, "weights": None}), value=2.0), "backbone_seconds": 0.02}
    wide = {**record(("net", {"width": 4}), value=3.0), "backbone_seconds": 0.08}
    charts = plots([busy, untrained, wide])["speed-maxa-depth"]
    matches = re.findall(r"<title>(net[^:]*) \+ h: ([\d.]+), ([\d.]+)", charts)
    assert [(ms, value) for _, ms, value in matches] == [("30", "1"), ("30", "2"), ("90", "3")]
