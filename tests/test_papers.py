"""The papers' tables are whole and agree with themselves, with each other and with published formulas."""

import json

import pytest
from dense_ctx_benchmarks import papers

from dense_ctx import registry

TABLES = papers.names()
# What a number can be in these papers, by metric and unit: a decimal point in the wrong place falls outside.
RANGES = {
    **dict.fromkeys([("J&F", "%"), ("J", "%"), ("F", "%")], (30, 90)),
    ("RMSE", "deg"): (20, 40),
    ("within 11.25 deg", "%"): (20, 60),
    ("within 22.5 deg", "%"): (40, 80),
    ("within 30 deg", "%"): (60, 95),
    ("mIoU", "%"): (5, 95),
    ("pixel accuracy", "%"): (70, 95),
    ("seen mIoU", "%"): (20, 50),
    ("unseen mIoU", "%"): (10, 40),
    ("harmonic mIoU", "%"): (15, 45),
    ("IoU", "%"): (0.2, 95),
    ("ARI", "%"): (20, 60),
    ("ARI", ""): (0.2, 0.6),
    ("cross-entropy", ""): (0.1, 6.5),
    ("MSE", ""): (0.01, 420),  # of three quantities, none with a unit in the paper
    ("RMSE", "m"): (0.5, 1),
    ("mean gain over DINOv2R", "pp"): (0.1, 3),
    ("image size", "px"): (224, 1024),
    ("feature grid side", "cells"): (7, 64),
    ("parameters", "M"): (60, 500),
    ("learnable parameters", "M"): (0.1, 0.7),
}


def row(table, name):
    (found,) = [row for row in papers.table(table).rows if row.name == name]
    return found


def test_all_tables_are_there():
    parts = [*(f"table{i}" for i in range(1, 6)), *(f"table6{letter}" for letter in "abcdef")]
    parts += [f"table{i}" for i in range(7, 11)]
    want = [f"{paper}:table{i}" for paper in ("lila", "maxa") for i in range(1, 7)]
    assert [*(f"dip:{part}" for part in parts), "hummingbird:voc", *want] == TABLES
    assert papers.names("maxa") == [f"maxa:table{i}" for i in range(1, 7)]


@pytest.mark.parametrize("name", TABLES)
def test_structure(name):
    table = papers.table(name)
    assert table.name == name
    assert table.title
    assert table.paper
    assert table.source
    assert len({row.name for row in table.rows}) == len(table.rows) >= 2
    for row in table.rows:
        assert list(row.values) == list(table.columns)
    kinds = [(column.metric, column.protocols, column.condition) for column in table.columns.values()]
    assert len(set(kinds)) == len(kinds), "two columns that nothing tells apart"
    for key, column in table.columns.items():
        counts = column.unit in ("M", "px", "cells")
        assert column.higher_is_better is None if counts else isinstance(column.higher_is_better, bool)
        low, high = RANGES[column.metric, column.unit]
        values = [row.values[key] for row in table.rows if row.values[key] is not None]
        assert values
        for value in values:
            assert type(value) in (int, float)
            assert low <= value <= high, (key, value)


@pytest.mark.parametrize("paper", registry().names("paper"))
def test_file(paper):
    file = json.loads(registry().file("paper", paper).read_text("utf-8"))
    assert file.keys() == {"paper", "title", "source", "unreadable", "tables"}
    assert file["paper"] == paper
    for lost in file["unreadable"]:
        assert lost.keys() == {"table", "what"}
        assert lost["table"] in file["tables"]
    for table in file["tables"].values():
        assert table["protocol"].keys() == table["columns"].keys()


def test_backbones_are_names_of_the_library():
    used = {row.backbone for name in TABLES for row in papers.table(name).rows} - {None}
    assert len(used) > 10
    assert used <= set(registry().names("backbone"))


def test_mean_of_region_and_boundary():
    checked = 0
    for name in papers.names("lila"):
        table = papers.table(name)
        for probe in ("linear", "knn"):
            for row in table.rows:
                both, j, f = (row.values.get(f"{probe}_{part}") for part in ("jf", "j", "f"))
                if None not in (both, j, f):
                    assert both == pytest.approx((j + f) / 2, abs=0.11), (name, row.name)
                    checked += 1
    assert checked == 14 + 14 + 6


def test_harmonic_mean_of_seen_and_unseen():
    for row in papers.table("lila:table3").rows:
        seen, unseen, harmonic = (row.values[f"zeroshot_{part}"] for part in ("seen", "unseen", "harmonic"))
        assert harmonic == pytest.approx(2 * seen * unseen / (seen + unseen), abs=0.15)


def test_normals_shares_grow_with_the_angle():
    for row in papers.table("lila:table2").rows:
        assert row.values["normals_11"] < row.values["normals_22"] < row.values["normals_30"]


def cnn(c, n):
    """Weights of the adapter's CNN with c channels and n outputs, and of its skip branch (MAXA, A.6), D = 32."""
    return (9 * 32 + 1) * c + (16 * c + 1) * c + (9 * c + 1) * c + (4 * c + 1) * c + (c + 1) * n + 33 * n


# Channels of each backbone's features; 768 for the ViT-B.
CHANNELS = {"SAM V2 B+": 256, "Hiera B+": 896, "SigLIP-SO": 1152, "ConvNeXt": 1536, "ConvNeXt (2 layers)": 1536 + 768}
CHANNELS |= dict.fromkeys(["Dino V2 (ViT-L)", "CLIP (ViT-L)", "Aim2", "ViTamin", "Phi-3.5V"], 1024)
OUTPUTS = {"ari": (32, 32), "boundary": (8, 1), "distance": (8, 1), "voc": (21, 21), "coco": (64, 201), "depth": (8, 1)}


@pytest.mark.parametrize("name", ["maxa:table2", "maxa:table3"])
def test_learnable_parameters_follow_one_formula(name):
    table = papers.table(name)
    assert len(table.rows) == 21
    for row in table.rows:
        shared = 27_370 + 196 * CHANNELS.get(row.name, 768) + 8 * row.values["grid"] ** 2
        for task, outputs in OUTPUTS.items():
            published = row.values.get(f"{task}_learnable")
            if published is not None:
                assert (shared + cnn(*outputs)) / 1e6 == pytest.approx(published, abs=0.00055), (row.name, task)


def test_both_maxa_tables_are_of_the_same_networks():
    for one, other in zip(papers.table("maxa:table2").rows, papers.table("maxa:table3").rows, strict=True):
        assert (one.name, one.backbone, one.data) == (other.name, other.backbone, other.data)
        for column in ("image", "grid", "params"):
            assert one.values[column] == other.values[column]
        assert one.values["boundary_learnable"] == other.values["depth_learnable"]
        if one.name != "ConvNeXt (2 layers)":
            stride = one.values["image"] / one.values["grid"]
            assert min(abs(stride - known) for known in (8, 14, 16, 32)) < 0.25


def test_rows_the_papers_print_twice_agree():
    full = row("lila:table1", "DINOv2-S14 + LILA")
    normals = row("lila:table2", "DINOv2-S14 + LILA")
    for table, name in (("table4", "Self-distillation + depth + flow"), ("table5", "LILA (full)")):
        values = row(f"lila:{table}", name).values
        assert values["linear_jf"] == full.values["linear_jf"]
        assert values["knn_jf"] == full.values["knn_jf"]
        assert values["normals_rmse"] == normals.values["normals_rmse"]
        assert values["coco_miou"] == normals.values["coco_miou"]
    first = {row.name: row.values for row in papers.table("dip:table1").rows}
    for name in ("dip:table2", "dip:table4", "dip:table5"):
        for other in papers.table(name).rows:
            if other.name in first:
                assert other.values["voc_miou"] == first[other.name]["voc_miou"]
                assert other.values["ade20k_miou"] == first[other.name]["ade20k_miou"]
    small, base = first["DIP, ViT-S/14"], first["DIP, ViT-B/14"]
    assert row("dip:table10", "Nearest neighbours").values == small
    assert row("dip:table9", "DIP, ViT-B").values.items() <= base.items()
    for letter in "abcdef":
        assert any(
            row.values.items() >= {("voc_miou", 81.0), ("ade20k_miou", 39.7)}
            for row in papers.table(f"dip:table6{letter}").rows
        )


def test_fewer_training_images_never_help():
    for name in ("dip:table1", "dip:table9", "dip:table10"):
        for row in papers.table(name).rows:
            for data in ("voc_miou", "ade20k_miou"):
                values = [row.values.get(data + part) for part in ("", "_8th", "_64th", "_128th")]
                if values[0] is not None:
                    assert values == sorted(values, reverse=True), (name, row.name)


SPOT = """
lila:table1 | DINOv2-S14 + LILA | linear_jf | 68.6
lila:table1 | DINOv2-L14 + LILA (Kinetics) | knn_jf | 74.9
lila:table1 | CRW-ResNet18 | linear_jf | -
lila:table2 | DINOv2-B14 + LILA | normals_rmse | 25.71
lila:table3 | DINOv2-S14 | ade20k_miou | 43.5
lila:table4 | Self-distillation only | knn_jf | 68.6
lila:table5 | (A) ERM distillation | knn_jf | 61.1
lila:table6 | MAE-B16 + LILA | linear_jf | 53.6
maxa:table1 | SigLIP (SO): ViT | params | 414
maxa:table2 | Dino V2 | ari | 54.5
maxa:table2 | ConvNeXt (2 layers) | ari_learnable | 0.523
maxa:table3 | Dino V2 | voc_iou | 85.3
maxa:table3 | Random (untrained) | depth_mse | 416.9
maxa:table4 | no sigma | depth_mse_dinov2 | 0.3039
maxa:table5 | MAE ViT-H | mse_maxa | -
maxa:table6 | MAXA-DinoV2 | coco_iou | 45.6
dip:table1 | DIP, ViT-B/14 | voc_miou_128th | 70.1
dip:table2 | DIP, ViT-S/14 | mean_gain | 0.85
dip:table3 | DIP | nyuv2_rmse | 0.756
dip:table4 | MAE + DIP, ViT-B/16 | voc_miou | 47.3
dip:table6d | Pseudo-labels without DiffCut | ade20k_miou | 25.5
dip:table8 | DIP, ViT-B/14 | coco_miou | 86.7
"""


@pytest.mark.parametrize("line", SPOT.strip().splitlines())
def test_spot_values(line):
    table, name, column, value = line.split(" | ")
    assert row(table, name).values[column] == (None if value == "-" else float(value))


def test_protocols():
    columns = papers.table("lila:table1").columns
    assert columns["linear_j"].protocols == ("davis2017-linear-v2",)
    assert columns["knn_f"].protocols == ("davis2017-knn-v2",)
    eighth = papers.table("dip:table1").columns["voc_miou_8th"]
    assert (eighth.protocols, eighth.condition) == (("voc2012-dip-8th-v1", "voc2012-dip-8th-p16-v1"), None)
    assert papers.table("maxa:table3").columns["voc_iou"].protocols == ("maxa-table3/voc",)
