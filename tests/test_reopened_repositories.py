"""Models on the backbone of a repository (SAM 2's neck in MAXA's tables) open again; no file names one to fetch."""

import json

import pytest
import torch
import transformers
from effect_table_more import SAM2

from dense_ctx import AutoDenseModel
from dense_ctx.errors import CheckpointError, ConfigError, WeightsError
from dense_ctx.persistence.checkpoint import read


@pytest.fixture
def repository(tmp_path):
    """SAM 2 in tiny, in the layout of its repository."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_attention_heads": 2}
    config = transformers.Sam2Config(
        vision_config=transformers.Sam2VisionConfig(**SAM2),
        prompt_encoder_config={"hidden_size": 16, "image_size": 64},
        mask_decoder_config={**small, "mlp_dim": 16, "iou_head_hidden_dim": 16},
    )
    transformers.Sam2Model(config).save_pretrained(tmp_path / "sam2")
    return tmp_path / "sam2"


@pytest.fixture
def saved(repository, tmp_path):
    """A model with the arguments that the presets write out, saved, and what it gives."""
    args = {"repo": str(repository), "weights": "pretrained", "config": None}
    model = AutoDenseModel.from_parts("sam2-base-plus-neck", "upsample", backbone_args=args)
    folder, image = model.save_pretrained(tmp_path / "model"), torch.rand(1, 3, 64, 96)
    return folder, image, model(image)


def test_it_opens_again(saved):
    folder, image, features = saved
    assert json.loads((folder / "config.json").read_text())["backbone"]["args"]["config"] is None
    again = AutoDenseModel.from_pretrained(folder)
    assert torch.equal(again(image).patches, features.patches)
    assert again(image).patches.abs().sum() > 0
    assert again.backbone.source.endswith("sam2")


def test_other_weights_there_are_noticed(saved, repository):
    folder, *_ = saved
    net = transformers.Sam2Model.from_pretrained(repository)
    with torch.no_grad():
        next(net.vision_encoder.parameters()).add_(1)
    net.save_pretrained(repository)
    with pytest.raises(CheckpointError, match="was trained on other weights of sam2-base-plus-neck"):
        AutoDenseModel.from_pretrained(folder)


def rewritten(folder, **args):
    """The model with other arguments of its backbone, as an attacker would write them."""
    from dense_ctx.persistence.checkpoint import CONFIG, MODEL, WEIGHTS

    config = json.loads((folder / CONFIG).read_text())
    config["backbone"]["args"] |= args
    weights = (folder / WEIGHTS).read_bytes()

    def fill(partial):
        (partial / CONFIG).write_text(json.dumps(config))
        (partial / WEIGHTS).write_bytes(weights)

    MODEL.write(folder, fill)


def test_a_file_names_no_repository_that_is_fetched(saved, monkeypatch):
    folder, *_ = saved
    rewritten(folder, repo="evil/repo")
    with pytest.raises(WeightsError, match=r"names the Hub repository evil/repo, which is not in the cache.*allow="):
        AutoDenseModel.from_pretrained(folder)
    rewritten(folder, config={"hidden_size": 10**9})
    with pytest.raises(ConfigError, match="does not take config="):
        AutoDenseModel.from_pretrained(folder)


def test_a_file_from_the_hub_names_the_published_repository_alone(saved):
    folder, *_ = saved
    with pytest.raises(ConfigError, match="does not take repo="):
        read(folder, published=True)
    rewritten(folder, repo="facebook/sam2.1-hiera-base-plus")
    with pytest.raises(WeightsError, match=r"names the Hub repository facebook/sam2\.1"):
        read(folder, published=True)
