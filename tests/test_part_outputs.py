"""What a part returns is compared with what it says it returns, before anything reads it."""

import pytest
import torch
from dense_ctx_dip.segmenters import PatchSegmenter, check_segments
from dense_ctx_lila.cues.base import Cue
from torch import nn
from torch.nn import functional

from dense_ctx import AutoDenseModel
from dense_ctx.data.base import ImageSet, Sample, read_sample
from dense_ctx.errors import ConfigError, ContractError, InputError
from dense_ctx.interfaces import Backbone, Decoder, Features, Losses, Objective
from dense_ctx.testing import tiny_model
from dense_ctx.train import TrainStep


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
        ({"crop": -1}, r"\[shapes\] backbone Patches: .* \(\[\[2, 5, 3, 4\]\], .* say \(\[\[2, 5, 3, 5\]\]"),
        ({"dims": (9,)}, r"\[shapes\] backbone Patches: .* dims and strides say \(\[\[2, 9, 3, 5\]\]"),
        ({"size": (20, 30)}, r"\[shapes\] backbone Patches: .* image_size .*\(20, 30\)\);"),
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


class Constant(Objective):
    def __init__(self, result):
        super().__init__()
        self.result = result

    def dataset(self, data):
        return [{}]

    def forward(self, model, batch):
        return self.result


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (torch.ones(()), r"gave tensor\(1\.\); expected Losses"),
        (Losses(torch.ones(3)), r"gave Losses\(total=tensor\(\[1\., 1\., 1\.\]\), logs=\{\}\); expected Losses, total"),
    ],
)
def test_losses_that_are_none(result, message):
    step = TrainStep(tiny_model(), Constant(result), ())
    with pytest.raises(ContractError, match=rf"\[losses\] objective Constant: forward {message}"):
        step({})
    assert TrainStep(tiny_model(), Constant(Losses(torch.ones(()))), ())({}).total == 1


class Grey(Cue):
    unit, pair, meaning = "grey", False, "how bright it is."

    def __init__(self, channels=1, crop=None):
        super().__init__()
        self.channels, self.crop = channels, crop

    def forward(self, context, query):
        return context.mean(1, keepdim=True), query.mean(1, keepdim=True)[..., : self.crop]


@pytest.mark.parametrize("fault", [{"channels": 2}, {"crop": -2}])
def test_maps_of_other_shapes_than_a_cue_says(fault):
    frames = torch.rand(2, 3, 8, 10)
    assert Grey()(frames, frames)[1].shape == (2, 1, 8, 10)
    with pytest.raises(ContractError, match=r"cue Grey gave maps .* of frames \[2, 3, 8, 10\]"):
        Grey(**fault)(frames, frames)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (torch.zeros(4, 6), r"torch.float32 \[4, 6\]; expected int64 \[4, 6\]"),
        (torch.zeros(3, 6).long(), r"torch.int64 \[3, 6\]; expected int64 \[4, 6\]"),
        (torch.full((4, 6), -2), r"ids down to -2; expected -1 where there is no segment"),
        (None, r"NoneType; expected int64"),
    ],
)
def test_segments_that_are_none(segments, message):
    check_segments(PatchSegmenter(), torch.full((4, 6), -1), (4, 6))
    with pytest.raises(ContractError, match=rf"segmenter PatchSegmenter gave {message}"):
        check_segments(PatchSegmenter(), segments, (4, 6))


class Labelled(ImageSet):
    def __init__(self, classes, *labels):
        self.classes, self.names, self.labels = classes, ("one",), labels

    def __getitem__(self, index):
        return Sample("one", torch.rand(3, 1, len(self.labels)), torch.tensor([self.labels]))


@pytest.mark.parametrize("labels", [(0, 2), (-2, 1)])
def test_labels_outside_the_classes_are_the_data_sets_fault(labels):
    assert read_sample(Labelled(("a", "b"), -1, 1), 0, "mine").target.tolist() == [[-1, 1]]
    assert read_sample(Labelled((), -1, 5), 0, "mine").target.tolist() == [[-1, 5]]  # no classes are named
    with pytest.raises(
        InputError, match=rf"mine: sample 'one' has labels {labels[0]} to {labels[1]}; its classes are 0 to 1"
    ):
        read_sample(Labelled(("a", "b"), *labels), 0, "mine")


def test_a_revision_of_what_has_none_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"revision would have no effect for .*lila.lite0, which is no Hub repository"
    ):
        AutoDenseModel.from_pretrained("lila-lite0", revision="v2")
    folder = AutoDenseModel.from_parts("rgb-xy", "upsample").save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="revision would have no effect for"):
        AutoDenseModel.from_pretrained(folder, revision="v2")
    assert AutoDenseModel.from_pretrained(folder).dim
