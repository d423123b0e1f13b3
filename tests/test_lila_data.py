"""What LILA trains on at its published sizes: splits and options of a layout, clips opened when drawn, batched cues."""

import resource
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import tiny_datasets as tiny
import torch
from dense_ctx_lila.cue_targets import CueMaps
from dense_ctx_lila.cues.base import Cue
from dense_ctx_lila.feature_cue import FeatureCue
from dense_ctx_lila.objective import LilaObjective
from dense_ctx_lila.open_clips import open_clips
from dense_ctx_lila.sampling import FramePairs, Sampling
from torch import nn

from dense_ctx import create_backbone
from dense_ctx.data import Clip, VideoSet
from dense_ctx.data.video import write_video
from dense_ctx.errors import ConfigError, FileError, InputError
from dense_ctx.interfaces import Features

SMALL = {"size": 16, "frame_side": 48, "cue_side": 48}


def youtube(root, split, *names):
    for name in names:
        for index in range(3):
            tiny.image(root / f"{split}_all_frames/JPEGImages/{name}/{index:05d}.jpg")


def test_several_splits_and_the_options_of_a_layout(tmp_path):
    youtube(tmp_path, "train", "a", "b")
    youtube(tmp_path, "valid", "c")
    data = {"root": str(tmp_path), "layout": "youtube-vos", "split": ["train", "valid"], "frames": "all"}
    assert [clip.name for clip in open_clips(data).clips] == ["a", "b", "c"]  # no Annotations/ is needed
    assert len(open_clips({**data, "split": "valid"}).clips) == 1
    assert len(FramePairs(open_clips(data), Sampling(gap=(1, 1), **SMALL))) == 6
    with pytest.raises(FileError, match=r"train.JPEGImages is missing"):
        open_clips({**data, "frames": "annotated"})
    with pytest.raises(InputError, match="unknown keys frame; known: root, layout, split, frames"):
        open_clips({**data, "frame": "all"})
    youtube(tmp_path, "valid", "a")
    with pytest.raises(InputError, match="Two clips are called a"):
        open_clips(data)


def film(path, count=4):
    write_video(path, [np.full((48, 64, 3), 40 * index, dtype=np.uint8) for index in range(count)])


def test_clips_are_opened_when_they_are_drawn(tmp_path):
    film(tmp_path / "a.mp4")
    film(tmp_path / "short.mp4", 1)
    clips = (
        Clip("a", video=tmp_path / "a.mp4"),
        Clip("short", video=tmp_path / "short.mp4"),
        Clip("gone", video=tmp_path / "g.mp4"),
    )
    sampling = Sampling(gap=(1, 2), items="clips", **SMALL)
    data = FramePairs(VideoSet(clips), sampling)
    assert len(data) == 3
    assert not data.broken
    starts = {data.sample(0, seed)["name"] for seed in range(20)}
    assert starts == {"a@0+1", "a@0+2", "a@1+1", "a@1+2", "a@2+1"}
    for index, fault in ((1, r"short is left out: .*a gap of 1 needs more"), (2, "gone is left out: No video")):
        with pytest.warns(UserWarning, match=fault):
            first = data.sample(index, 3)
        assert first["name"].startswith("a@")  # another clip, the same for this seed ever after
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert data.sample(index, 3)["name"] == first["name"]
    with pytest.raises(FileError, match="None of 0 clips"):
        FramePairs(VideoSet(()), sampling)
    with pytest.raises(ConfigError, match=r"items is 'clip'; expected"):
        LilaObjective(sampling={"items": "clip"})


@pytest.mark.parametrize("count", [65_000, pytest.param(650_000, marks=pytest.mark.slow)])
def test_an_index_of_kinetics_size_starts_at_once(count):
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    names = (f"class {index // 1000}/clip_{index:06d}_000010_000020" for index in range(count))
    videos = VideoSet(tuple(Clip(name, video=Path(f"/data/kinetics700/train/{name}.mp4")) for name in names))
    data = FramePairs(videos, Sampling(items="clips"))
    assert len(data) == count
    unit = 1024 if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2**32 else 1  # macOS counts bytes
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit / 1e6
    print(f"{time.monotonic() - began:.1f} s, {megabytes:.0f} MB")
    assert time.monotonic() - began < 60 * count / 650_000
    assert megabytes < 500 * count / 650_000


class Network(Cue):
    """A cue with a weight, which counts its calls."""

    channels, unit, pair, meaning = 3, "intensity", False, "the frame"

    def __init__(self):
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.ones(())), 0

    def forward(self, context, query):
        self.calls += 1
        return context * self.weight, query * self.weight


def test_frames_of_one_size_are_one_call_of_a_cue_network():
    cues = CueMaps(["features"], FeatureCue(), Sampling(map_size=8), None)
    network = Network()
    cues.names, cues.heavy = ("n",), nn.ModuleDict({"n": network})
    frames = [torch.rand(2, 3, *size) for size in ((20, 30), (24, 24), (20, 30))]
    box = torch.tensor([[0.1 * i, 0.2, 0.5, 0.6] for i in range(3)])
    batch = {"frames": frames, "context_box": box, "query_box": box.flip(0)}
    cpu = torch.device("cpu")
    widths, targets = cues(None, torch.zeros(6, 3, 8, 8), cues.prepare(batch, cpu))
    assert widths == {"n": 3}
    context, query = (half.pixels() for half in targets.split())
    assert network.calls == 2
    for index in range(3):
        one = {
            "frames": frames[index : index + 1],
            **{k: batch[k][index : index + 1] for k in ("context_box", "query_box")},
        }
        first, second = (
            half.pixels() for half in cues(None, torch.zeros(2, 3, 8, 8), cues.prepare(one, cpu))[1].split()
        )
        torch.testing.assert_close(context[index : index + 1], first)
        torch.testing.assert_close(query[index : index + 1], second)


def test_the_features_cue_behind_the_final_norm_is_the_networks_own():
    args = {"weights": None, "embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "layers": [1]}
    torch.manual_seed(0)
    raw = create_backbone("timm:vit_tiny_patch16_224", norm=False, **args)
    torch.manual_seed(0)
    normed = create_backbone("timm:vit_tiny_patch16_224", norm=True, **args)
    with torch.no_grad():
        for backbone in (raw, normed):
            backbone.net.norm.weight.copy_(torch.linspace(0.5, 2, 32))
            backbone.net.norm.bias.copy_(torch.linspace(-1, 1, 32))
    images = torch.rand(2, 3, 64, 64)
    maps = [Features(b(images).maps, None, (64, 64)) for b in (raw, normed)]
    own, same, raw = (FeatureCue(norm=norm, pamr=False)(each, images, 16).pixels()
                      for norm, each in ((True, maps[0]), (False, maps[1]), (False, maps[0])))  # fmt: skip
    torch.testing.assert_close(own, same, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(own, raw, atol=0.1)
