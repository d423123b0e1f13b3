import json

import numpy as np
import pytest
import torch
from dense_ctx_datasets.testing import check_dataset
from dense_ctx_lila.cue_cache import CueCache, plan_cues
from dense_ctx_lila.cues.base import create_cue
from dense_ctx_metrics.testing import check_metric
from PIL import Image

from dense_ctx import AutoDenseModel, DenseModel, create_decoder, registry
from dense_ctx.data import open_set
from dense_ctx.evaluate import evaluate
from dense_ctx.testing import TinyBackbone, check_decoder, check_objective
from dense_ctx.train import TrainConfig, train

PARTS = {
    "decoder": "template-conv",
    "objective": "template-colours",
    "dataset": "template-cells",
    "metric": "template-dice",
    "protocol": "template-cells-ridge-v1",
    "cue": "template-edges",
}


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Bright discs on a dark, noisy ground; the first row is not annotated."""
    root, draw = tmp_path_factory.mktemp("cells"), np.random.default_rng(0)
    (root / "images").mkdir()
    (root / "masks").mkdir()
    rows, columns = np.mgrid[:40, :56]
    for index in range(6):
        name = f"{index}"
        inside = (rows - draw.integers(12, 28)) ** 2 + (columns - draw.integers(12, 44)) ** 2 < 81
        image = np.where(inside[..., None], (200, 90, 160), (40, 60, 50)) + draw.integers(-30, 30, (40, 56, 3))
        mask = inside.astype(np.uint8)
        mask[0] = 255
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{name}.png")
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
        with (root / ("train.txt" if index < 4 else "val.txt")).open("a", encoding="utf-8") as listing:
            listing.write(name + "\n")
    return root


@pytest.mark.parametrize(("kind", "name"), PARTS.items())
def test_every_name_is_registered_by_this_distribution(kind, name):
    entry, _ = registry().get(kind, name)
    assert entry.owner.distribution == "dense-ctx-template"


def test_decoder_keeps_the_contract():
    check_decoder("template-conv")


def test_objective_keeps_the_contract_and_trains(cells):
    backbone = TinyBackbone()
    model = DenseModel(backbone, create_decoder("template-conv", backbone, dim=8))
    assert "step" in check_objective("template-colours", cells / "images", model=model, steps=2)


@pytest.mark.parametrize("grey", [False, True])
def test_data_set_keeps_the_contract(cells, grey):
    check_dataset("template-cells", cells, split="train", options={"grey": grey})


def test_data_set_lists_a_missing_mask(cells, tmp_path):
    (tmp_path / "val.txt").write_text("4\n", encoding="utf-8")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "4.png").write_bytes((cells / "images" / "4.png").read_bytes())
    with pytest.raises(Exception, match="has no annotation"):
        open_set("template-cells", tmp_path)


@pytest.mark.parametrize("background", [True, False])
def test_metric_keeps_the_contract(background):
    check_metric("template-dice", args={"background": background})


def test_metric_equals_the_formula():
    metric = registry().create("metric", "template-dice", classes=("ground", "cell"))
    labels = torch.tensor([[0, 1, 1, -1], [0, 0, 1, 1]])
    predicted = torch.tensor([[0, 1, 0, 1], [1, 0, 1, 1]])
    metric.update(torch.nn.functional.one_hot(predicted, 2).movedim(-1, 0).float(), labels)
    scores = metric.compute()
    assert scores.parts == pytest.approx({"ground": 2 * 2 / (3 + 3), "cell": 2 * 3 / (4 + 4)})
    assert scores.values["worst"] == pytest.approx(2 / 3)


def test_protocol_measures_what_colours_can_tell(cells, tmp_path):
    model = AutoDenseModel.from_parts("rgb-xy", "upsample")
    result = evaluate(model, "template-cells-ridge-v1", cells, tmp_path)
    assert (result.metric, set(result.parts)) == ("dice", {"cell"})
    assert result.value > 0.95


def test_the_best_validation_of_a_run_is_kept(cells, tmp_path):
    model, objective = "rgb-xy+template-conv(dim=4)", "template-colours(side=32)"
    settings = {"model": model, "objective": objective, "data": str(cells / "images"), "batch_size": 2, "log_with": []}
    validate = {"validate": {"every": 1}, "steps": 3, "device": "cpu", "out": str(tmp_path / "run")}
    config = TrainConfig.from_dict({**settings, **validate})
    train(config, validate=lambda model, step: {"score": (0.2, 0.7, 0.4)[step - 1], "loss": step})
    best = json.loads((tmp_path / "run" / "best.json").read_text(encoding="utf-8"))
    assert best == {"step": 2, "scores": {"score": 0.7, "loss": 2}}


def test_cue_gives_the_slope_of_a_ramp_and_is_cached(tmp_path):
    width, height = 56, 40
    ramp = torch.arange(width).float().div(width - 1).expand(1, 3, height, width)
    edges, flat = create_cue("template-edges")(ramp, torch.zeros_like(ramp))
    assert torch.allclose(edges[:, 0, :, 1:-1], torch.tensor(1 / (width - 1)), atol=1e-6)
    assert not edges[:, 1].any()
    assert not flat.any()
    (tmp_path / "clip").mkdir()
    for number in range(2):
        pixels = (ramp[0].permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(tmp_path / "clip" / f"{number}.png")
    plan_cues([tmp_path / "clip"], ["template-edges"], tmp_path / "cache").run()
    context, query = CueCache(tmp_path / "cache", ["template-edges"]).get("clip", 0, 1)
    assert torch.allclose(context, edges[0], atol=0.005)  # 8 bits an image
    assert torch.equal(context, query)
