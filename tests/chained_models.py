"""Small models for tests of `model:NAME`: saved ones, and others built on them."""

import torch

from dense_ctx import AutoDenseModel

LITE, DPT = "efficientnet-lite0", {"dim": 5, "width": 6}
IMAGE = torch.rand(1, 3, 45, 61, generator=torch.Generator().manual_seed(3))


def pixels(model):
    with torch.inference_mode():
        return model(IMAGE).pixels


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def learned_model(folder):
    """Save a model whose decoder has parameters."""
    torch.manual_seed(0)
    return AutoDenseModel.from_parts(LITE, "dpt", decoder_args=DPT).save_pretrained(folder)


def upon(folder, name, decoder="upsample", **options):
    """Save, beside it, a model on the model of `folder`."""
    model = AutoDenseModel.from_parts(f"model:{folder}", decoder, **options)
    return model.save_pretrained(folder.parent / name)
