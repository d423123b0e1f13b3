"""Files are read while the device computes: in order, in one other thread, errors in their place; results as before."""

import threading

import pytest
import torch
from dense_ctx_lila.cue_targets import CueMaps
from dense_ctx_lila.cues.base import Cue
from dense_ctx_lila.feature_cue import FeatureCue
from dense_ctx_lila.sampling import Sampling
from pretend_gpu.device import compiler, pretend

from dense_ctx.errors import FileError
from dense_ctx.progress import ahead


def test_items_come_in_order_from_one_thread_that_is_ahead_by_so_many():
    begun, threads = [], set()

    def read(item):
        begun.append(item)
        threads.add(threading.get_ident())
        return item * 10

    for number, value in enumerate(ahead(read, range(20), depth=3)):
        assert value == number * 10
        assert len(begun) <= number + 4
    assert begun == list(range(20))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_an_item_is_read_before_it_is_asked_for():
    second = threading.Event()
    items = ahead(lambda item: second.set() if item else None, range(3))
    next(items)
    assert second.wait(10)


def test_an_error_comes_where_its_result_would_and_nothing_is_read_beyond():
    begun = []

    def read(item):
        begun.append(item)
        if item == 2:
            raise FileError("damaged")
        return item

    items = ahead(read, range(100), depth=2)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(FileError, match="damaged"):
        next(items)
    assert len(begun) <= 5
    assert list(ahead(read, [])) == []


class Blur(Cue):
    """A network of one convolution."""

    channels, unit = 2, ""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 2, 3, padding=1)
        self.types = []

    def forward(self, context, query):
        maps = [self.layer(frames) for frames in (context, query)]
        self.types.append(maps[0].dtype)
        return maps[0], maps[1]


@pytest.mark.pretend_gpu
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler (c++, g++ or clang++) for the pretended device")
def test_cue_networks_are_in_bfloat16_where_the_training_is_and_run_once_for_frames_of_one_size():
    sampling = Sampling(size=16, frame_side=24, cue_side=24)
    cues, blur = _with(sampling)
    draw = torch.Generator().manual_seed(0)
    box = torch.tensor([[2.0, 2.0, 18.0, 18.0]] * 3)
    frames = [torch.rand(2, 3, 24, 32, generator=draw) for _ in range(3)]
    batch = {"frames": frames, "context_box": box, "query_box": box}
    images = torch.rand(6, 3, 16, 16, generator=draw)
    expected = cues(None, images, cues.prepare(batch, images.device))[1].pixels()
    assert blur.types == [torch.float32]
    with pretend():
        blur.to("cuda")
        for half, dtype, limit in ((False, torch.float32, 1e-4), (True, torch.bfloat16, 0.1)):
            there = images.to("cuda")
            widths, found = cues(None, there, cues.prepare(batch, there.device, half))
            assert list(widths) == ["blur"]
            assert blur.types[-1] == dtype
            assert found.pixels().dtype == torch.float32
            assert float((found.pixels().cpu() - expected).abs().max()) < limit
    assert len(blur.types) == 3


def _with(sampling):
    """Cue maps of a network that is not registered."""
    torch.manual_seed(0)
    cues, blur = CueMaps(["flow:dis"], FeatureCue(), sampling, None), Blur().eval().requires_grad_(False)
    cues.names, cues.heavy["blur"] = ("blur",), blur
    return cues, blur
