"""docs/official_names.md: every row is run; what is ours is what it says, and a test compares it with theirs."""

import re
import shlex

import pytest
import timm
import torch
from dense_ctx_backbones import timm_names
from dense_ctx_benchmarks import papers
from snippet_verbs import check_verb
from snippets import ROOT, blocks
from timm.models import get_pretrained_cfg

from dense_ctx import create_backbone, registry
from dense_ctx.evaluate.protocol import load_protocol

PAGE = ROOT / "docs" / "official_names.md"
TEXT = PAGE.read_text(encoding="utf-8")


def rows(heading):
    """The cells of the table below a heading, without its first two lines."""
    table = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("| \n") for line in table.splitlines() if line.startswith("|")][2:]
    return [tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)) for line in lines]


def code(cell):
    return re.fullmatch(r"`(.*)`", cell)[1]


@pytest.fixture(scope="module")
def names():
    (block,) = blocks(PAGE)
    namespace = {}
    with pytest.MonkeyPatch.context() as patch:
        import snippet_stage

        snippet_stage.stand_in(patch)
        exec(compile(block.text, block.place, "exec"), namespace)
    return namespace


@pytest.mark.parametrize("row", rows("Code"), ids=lambda row: row[0][:40])
def test_what_is_ours_gives_what_the_row_says(row, names):
    _, ours, gives, test = row
    value = eval(code(ours), names)
    result = type(value).__name__ if not hasattr(value, "shape") else str(list(value.shape))
    assert result == code(gives)
    text = (ROOT / test).read_text(encoding="utf-8")
    assert re.search(r"\.npz|oracles", text), f"{test} reads no recording"


def test_the_commands_of_the_page_are_commands():
    matches = re.findall(r"`dense-ctx ([^`]*)`", TEXT)
    assert len(matches) == 5
    for line in matches:
        if line == "bench":  # without its arguments
            continue
        check_verb(shlex.split(line))


@pytest.mark.parametrize("row", rows("Backbones"), ids=lambda row: row[1])
def test_a_backbone_is_timm_s(row):
    theirs, ours, of_timm, channels, stride = row
    assert timm_names()[code(ours)] == code(of_timm)
    pretrained = get_pretrained_cfg(code(of_timm))
    assert pretrained.hf_hub_id
    with torch.device("meta"):
        net = timm.create_model(code(of_timm), pretrained=False, num_classes=0)
    info = net.feature_info[-1]
    assert (info["num_chs"], info["reduction"]) == (int(channels), int(stride))
    letters = re.search(
        r"vit_?(small|base|large|giant|[sblg])", code(theirs.replace("CLIP ", "")).lower().replace("-", "")
    )
    size = {384: "s", 768: "b", 1024: "l", 1536: "g"}[int(channels)]
    assert letters is None or letters[1][0] == size


def test_what_is_named_is_built():
    backbone = create_backbone("dinov2-s14", weights=None, embed_dim=24, num_heads=2)
    assert (backbone.stride, backbone.dims) == (14, (24,) * 4)
    assert {code(row[1]) for row in rows("Backbones")} <= set(registry().names("backbone"))


@pytest.mark.parametrize("row", rows("Protocols"), ids=lambda row: row[1])
def test_a_protocol_is_that_of_the_paper_s_column(row):
    _, ours, column = row
    assert load_protocol(code(ours)).id == code(ours)
    table, name = code(column).split()
    assert code(ours) in papers.table(table).columns[name].protocols
