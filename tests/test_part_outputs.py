"""What a part returns is compared with what it says it returns, before anything reads it."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from dense_ctx import AutoDenseModel
from dense_ctx.errors import ContractError
from dense_ctx.interfaces import Backbone, Decoder, Features


class Patches(Backbone):
    def __init__(self, dims=(5,), crop=None, size=None):
        super().__init__()
        self.dims, self.strides, self.stride = dims, (7,), 7
        self.mean, self.std, self.image_size = (0.5,) * 3, (0.3,) * 3, (21, 35)
        self.net, self.crop, self.size = nn.Conv2d(3, 5, 7, stride=7), crop, size

    def forward(self, images):
        return Features((self.net(images)[..., : self.crop],), None, self.size or tuple(images.shape[-2:]))


class Mix(Decoder):
    def __init__(self, dims, strides, channels=4, scale=1):
        super().__init__()
        self.dim, self.net, self.scale = 4, nn.Conv2d(dims[-1], channels, 1), scale

    def forward(self, features, images, size):
        return functional.interpolate(self.net(features.maps[-1]), (size[0] // self.scale, size[1]))


def features_of(backbone, **args):
    decoder = Mix((5,), (7,), **args)
    return AutoDenseModel.from_parts(backbone, decoder)(torch.rand(2, 3, 20, 30))


def test_a_part_that_keeps_its_word():
    assert features_of(Patches()).pixels.shape == (2, 4, 20, 30)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({"crop": -1}, r"\[shapes\] backbone Patches: maps \[\[2, 5, 3, 4\]\] .* 21 x 35 .* \[\[2, 5, 3, 5\]\]"),
        ({"dims": (9,)}, r"\[shapes\] backbone Patches: .* dims and strides say \[\[2, 9, 3, 5\]\]"),
        ({"size": (20, 30)}, r"\[shapes\] backbone Patches: .* image_size \(20, 30\)"),
    ],
)  # fmt: skip
def test_maps_of_other_shapes_than_a_backbone_says(backbone, message):
    with pytest.raises(ContractError, match=message):
        features_of(Patches(**backbone))


@pytest.mark.parametrize(
    ("args", "shape"), [({"channels": 3}, r"\[2, 3, 21, 35\]"), ({"scale": 2}, r"\[2, 4, 10, 35\]")]
)
def test_pixels_of_another_shape_than_a_decoder_says(args, shape):
    with pytest.raises(ContractError, match=rf"\[shapes\] decoder Mix gave {shape}; expected \[2, 4, 21, 35\]"):
        features_of(Patches(), **args)
