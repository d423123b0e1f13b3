"""The contract suite, over every registered name: a new part is tested by being registered.

Backbones are built without pretrained weights. One with more than LIMIT parameters, counted on the meta
device, where nothing is allocated, is checked in structure only here, and whole with `-m slow`.
"""

from pathlib import Path

import pytest
import torch
from dense_ctx_benchmarks import papers
from dense_ctx_datasets.testing import check_dataset
from dense_ctx_metrics.testing import check_metric
from tiny_datasets import SETS

from dense_ctx import create_backbone, registry
from dense_ctx.create import random_args
from dense_ctx.data import layout
from dense_ctx.evaluate import load_protocol
from dense_ctx.evaluate.scorer import Scorer
from dense_ctx.testing import check_backbone, check_decoder, check_probe

LIMIT = 30_000_000


def names(kind):
    return [name for name in registry().names(kind) if not name.endswith(":")]  # a family is not one part


@pytest.mark.parametrize("name", names("backbone"))
def test_backbone(name):
    with torch.device("meta"):
        backbone = create_backbone(name, **random_args(name))
    if sum(p.numel() for p in backbone.parameters()) > LIMIT:
        assert check_backbone(backbone, structure_only=True) == ("attributes", "blocks", "shapes")
    else:
        assert "batch" in check_backbone(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", names("backbone"))
def test_backbone_whole(name):
    with torch.device("meta"):
        count = sum(p.numel() for p in create_backbone(name, **random_args(name)).parameters())
    if count > 1_200_000_000:
        pytest.skip(f"{count:,} parameters: more memory than a test should take; its structure is checked above")
    assert "batch" in check_backbone(name)


# small, and with heads that divide the channels of both pyramids
DECODER_ARGS = {
    "anyup": {"width": 16}, "jafar": {"width": 16}, "loftup": {"heads": 2}, "naf": {"width": 16, "heads": 2},
    "uplift": {"width": 16, "steps": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", names("decoder"))
def test_decoder(name):
    assert "size" in check_decoder(name, args=DECODER_ARGS.get(name))


# its scene is no video: what is where has nothing to do with where it was, so that no window may be put around a cell
PROBE_ARGS = {
    "propagation": {"size_mask_neighborhood": 0},
    "zero-shot": {"embeddings": "random"},
    "retrieval": {"reads": "pixels"},  # its classes change from patch to patch, which bilinear upsampling blurs
}


# one without `learns` has nothing to fit: test_predictor
@pytest.mark.parametrize("name", [name for name in names("probe") if name != "head"])
def test_probe(name):
    assert "learns" in check_probe(name, args=PROBE_ARGS.get(name))


@pytest.mark.parametrize("name", names("metric"))
def test_metric(name):
    assert "merge" in check_metric(name)


@pytest.mark.parametrize("name", names("dataset"))
def test_dataset(name, tmp_path):
    assert name in SETS, f"tiny_datasets.SETS makes no data for {name}"
    make, split, options = SETS[name]
    make(tmp_path)
    clauses = check_dataset(name, tmp_path, split=split, options=options)
    assert {"split", "options", "samples" if layout(name).kind != "video" else "frames"} <= set(clauses)


@pytest.mark.parametrize("name", names("protocol"))
def test_protocol(name):
    """Its file is one, and its probe, data set and metric are registered and fit each other."""
    protocol = load_protocol(name)
    assert protocol.id == name
    assert protocol.probe.name in registry().names("probe")
    scorer, data = Scorer(protocol), layout(protocol.data.name)
    assert scorer.target in (data.kind, protocol.data.options.get("target"))
    assert protocol.data.val in data.splits


@pytest.mark.parametrize("name", names("paper"))
def test_paper(name):
    tables = papers.names(name)
    assert tables
    for table in tables:
        assert papers.table(table).rows


def test_something_is_registered():
    for kind in ("backbone", "decoder", "probe", "metric", "dataset", "protocol", "paper"):
        assert names(kind), f"no {kind} is registered: the parametrised tests above ran on nothing"


def test_every_objective_has_a_contract_test():
    """Objectives need data of their own: each is listed here with it, so that none is left out unseen."""
    tasks = ("boundaries", "depth", "distance", "instances", "normals", "semantic")
    tested = {
        "dip": "test_dip_objective.py",
        "lila": "test_lila_objective.py",
        "maxa": "test_maxa_tasks.py",
        **{f"maxa-{task}": "test_maxa_tasks.py" for task in tasks},
    }
    assert names("objective") == sorted(tested)
    for file in tested.values():
        assert "check_objective(" in (Path(__file__).parent / file).read_text(encoding="utf-8")


def test_no_plugin_failed():
    assert registry().failures == {}
