"""`dense-ctx backbones`: names with licences, and what the documentation says of each."""

import json
import re
from pathlib import Path

import pytest
import torch
from dense_ctx_backbones.catalogue import cards
from dense_ctx_backbones.list_command import details

from dense_ctx import create_backbone, registry
from dense_ctx.cli import main

DOCS = Path(__file__).parents[1] / "docs/backbones.md"
TINY = {"weights": None, "depth": 4, "embed_dim": 48, "num_heads": 2}
# what each family's authors state: prefix tokens, final norm, mean of the red channel
RULES = {
    "lingbot-s16": (5, True, 0.485),
    "tipsv2-b14": (2, True, 0.0),
    "pe-spatial-b16": (1, False, 0.5),
    "pe-spatial-g14": (0, False, 0.5),
    "radio-v3-b16": (8, False, 0.48145466),
    "radio-v4-h16": (10, False, 0.48145466),
    "eva02-b14": (1, False, 0.48145466),
    "aimv2-l14": (0, True, 0.48145466),
    "siglip2-naflex-b16": (0, True, 0.5),
    "dinov3-s16plus": (5, True, 0.485),
    "dinov3-7b16": (5, True, 0.485),
}


def run(capsys, *words):
    status = main(["backbones", *words])
    printout = capsys.readouterr()
    return status, printout.out + printout.err


@pytest.mark.parametrize("name", RULES)
def test_prefix_tokens_norm_and_values(name):
    torch.manual_seed(0)
    backbone = create_backbone(name, **TINY)
    prefix, norm, red = RULES[name]
    assert (backbone.prefix_tokens, backbone.mean[0]) == (prefix, red)
    plain = create_backbone(name, norm=False, **TINY)
    plain.load_state_dict(backbone.state_dict())
    image = torch.randn(1, 3, 3 * backbone.stride, 5 * backbone.stride)
    with torch.inference_mode():
        maps, bare = backbone(image), plain(image)
    assert maps.maps[-1].shape == (1, 48, 3, 5)
    assert torch.equal(maps.maps[-1], bare.maps[-1]) is not norm
    assert torch.equal(maps.cls, maps.maps[-1].mean((2, 3))) is (prefix == 0)


def test_every_registered_backbone_has_a_card_and_stands_in_the_documentation():
    text = DOCS.read_text(encoding="utf-8")
    names = {name for name in registry().names("backbone") if not name.endswith(":")}
    assert {card.name for card in cards()} == names
    rows = dict(re.findall(r"^\| `([\w.-]+)` \| .*\| ([\w.-]+) \|$", text, re.MULTILINE))
    licences = {card.name: card.licence for card in cards() if card.name in rows}
    assert licences == {name: licence for name, licence in rows.items() if name in licences}
    assert {name for name in names if f"`{name}`" not in text} <= {name for name in names if name.startswith("hiera-")}


def test_the_list_is_chosen_by_licence_and_gate(capsys):
    def chosen(*words):
        status, text = run(capsys, "--json", *words)
        assert status == 0
        return {item["name"]: item for item in json.loads(text)}

    everything, permissive = chosen(), chosen("--licence", "permissive")
    assert {"lingbot-b16", "tipsv2-b14", "pe-spatial-l14", "eva02-s14"} <= permissive.keys()
    assert not {"radio-v4-h16", "aimv2-l14", "dinov3-b16", "mae-b16"} & permissive.keys()
    assert {item["licence"] for item in chosen("--licence", "mit").values()} == {"mit"}
    gated = everything.keys() - chosen("--ungated").keys()
    assert gated == {name for name in everything if name.startswith("dinov3-")}
    status, text = run(capsys, "--licence", "dinov3-license", "--ungated")  # before, a traceback
    assert (status, "0 of" in text) == (0, True)


def test_the_table_and_the_refusals(capsys):
    status, text = run(capsys, "--licence", "mit")
    assert (status, text.count("eva02")) == (0, 8)
    assert f"of {len(cards())} backbones" in text
    status, text = run(capsys, "--licence", "gpl")
    assert status == 2
    assert "No backbone has the licence 'gpl': give permissive, apache-2.0" in text
    status, text = run(capsys, "--licence", "")
    assert status == 2
    assert "No backbone has the licence ''" in text
    status, text = run(capsys, "tipsv2-b14", "--ungated")
    assert status == 2
    assert "leave them out" in text


def test_details_build_nothing(capsys):
    assert details("dinov3-7b16")["parameters"] > 6_000_000_000
    status, text = run(capsys, "tipsv2-b14")
    assert (status, "[0.0, 0.0, 0.0]" in text) == (0, True)
