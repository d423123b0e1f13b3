"""The eps of a norm, where the published code has one: told by what it does to values of hardly any variance."""

import pytest
import torch
from dense_ctx_dip.projector import Projector
from dense_ctx_dpt.dpt import DPT
from dense_ctx_lila.feature_cue import FeatureCue
from dense_ctx_probes.heads import AttentionHead

from dense_ctx import create_backbone
from dense_ctx.interfaces import Features

SMALL = {"weights": None, "depth": 1, "embed_dim": 24, "num_heads": 2, "img_size": 56}
BACKBONES = {  # the authors' code: partial(LayerNorm, eps=1e-6) in all but CLIP, which has torch's
    "dino-s16": 1e-6, "mae-b16": 1e-6, "dinov2-s14": 1e-6, "dinov2-reg-s14": 1e-6, "clip-b16": 1e-5,
}  # fmt: skip


def cue(rows):
    """The norm of the features cue, on rows as the channels of a map, before it is standardised over pixels."""
    maps = rows.T[None, :, :, None].expand(2, -1, -1, -1)
    images = torch.zeros(2, 3, len(rows) * 8, 8)
    captured = []
    original = torch.nn.functional.layer_norm

    def layer_norm(*args, **options):
        captured.append(original(*args, **options))
        return captured[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "layer_norm", layer_norm)
        FeatureCue(norm=True, pamr=False)(Features((maps,), None, (len(rows) * 8, 8)), images, 8)
    return captured[0][0, :, 0]


def head(rows):
    return AttentionHead(rows.shape[1], 2, heads=1).norm(rows)


NORMS = {
    "DPT of FlowFeat": (lambda rows: DPT((8,) * 4, (8,) * 4, dim=rows.shape[1], width=8).norm(rows), 1e-6),
    "projector of DIP": (lambda rows: Projector(8, 2, rows.shape[1]).norm(rows), 1e-6),
    "features cue of FlowFeat, as DINOv2's final norm": (cue, 1e-6),
    "attention probe of FlowFeat": (head, 1e-5),
    **{
        f"final norm of {name}": (lambda rows, name=name: create_backbone(name, **SMALL).net.norm(rows), eps)
        for name, eps in BACKBONES.items()
    },
}


@pytest.mark.parametrize("name", NORMS)
def test_the_published_eps(name):
    norm, eps = NORMS[name]
    torch.manual_seed(0)
    rows = 1e-3 * torch.randn(6, 24)  # a variance of 1e-6: as large as one eps, a tenth of the other
    expected = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, unbiased=False, keepdim=True) + eps).sqrt()
    torch.testing.assert_close(norm(rows).detach(), expected, rtol=1e-4, atol=1e-5)
