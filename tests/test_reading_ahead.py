"""Files are read while the device computes: in order, in one other thread, errors in their place; results as before."""

import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dense_ctx_lila.cue_targets import CueMaps
from dense_ctx_lila.cues.base import Cue
from dense_ctx_lila.feature_cue import FeatureCue
from dense_ctx_lila.sampling import Sampling
from dense_ctx_predict import Predictor
from dense_ctx_predict.batches import Room, batches, decoded, results
from dense_ctx_predict.outputs import Writer
from dense_ctx_predict.queries import expand
from dense_ctx_predict.run import run
from PIL import Image
from pretend_gpu.device import compiler, pretend, without_room
from safetensors.torch import load_file

from dense_ctx import DenseModel, InContext, cli
from dense_ctx.errors import FileError, InputError, NonFiniteError
from dense_ctx.images import load, load_mask
from dense_ctx.progress import ahead
from dense_ctx.testing.tiny import tiny_model


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


def test_several_threads_read_where_what_they_read_bears_it():
    both = threading.Barrier(2, timeout=10)  # passed by two at once alone
    assert [*ahead(lambda item: (both.wait(), item)[1], range(6), depth=5, threads=2)] == [*range(6)]
    alone = threading.Barrier(2, timeout=0.05)
    with pytest.raises(threading.BrokenBarrierError):
        next(ahead(lambda item: alone.wait(), range(2)))


def together(device, items, most):
    """The items of each batch; an item is an image's height, None a clip, a text a file that cannot be read."""

    def read(item):
        if isinstance(item, str):
            raise FileError(item)
        return None if item is None else torch.zeros(3, item, 4)

    model = SimpleNamespace(device=torch.device(device))
    for some in batches(model, items, read, lambda size: most):
        yield [item for item, _ in some]


def test_consecutive_images_of_one_size_come_together_and_a_clip_alone():
    items = [2, 2, 2, 5, 2, None, 2, 2, None]
    assert [*together("cuda", items, 2)] == [[2, 2], [2], [5], [2], [None], [2, 2], [None]]
    assert [*together("cuda", items, 8)] == [[2, 2, 2], [5], [2], [None], [2, 2], [None]]
    assert [*together("cpu", items, 1)] == [[item] for item in items]
    assert [*together("cuda", [], 8)] == []
    for device in ("cpu", "cuda"):
        some = together(device, [2, 2, 5, 5, "damaged", 5], 8)
        assert [next(some), next(some)] == [[2, 2], [5, 5]]
        with pytest.raises(FileError, match="damaged"):
            next(some)


def test_on_a_cpu_an_image_does_not_wait_for_the_next():
    begun = []
    model = SimpleNamespace(device=torch.device("cpu"))
    some = batches(model, range(9), lambda item: begun.append(item) or torch.zeros(3, 2, 2), Room(model))
    assert [item for item, _ in next(some)] == begun == [0]
    model.device = torch.device("cuda")
    some = batches(model, range(99), lambda item: begun.append(item) or torch.zeros(3, 2, 2), lambda size: 2)
    next(some)
    assert len(begun) > 3


def test_what_a_batch_refuses_is_done_one_by_one():
    images, alone = [torch.full((3, 2, 2), float(index)) for index in range(3)], []

    def one(image):
        alone.append(float(image[0, 0, 0]))
        return alone[-1]

    assert [*results(images, lambda batch: batch[:, 0, 0, 0].tolist(), one)] == [0, 1, 2]
    assert [*results(images[:1], lambda batch: pytest.fail("one image is no batch"), one)] == alone == [0]

    def refused(batch):
        raise NonFiniteError("of one of them")

    assert [*results(images, refused, one)] == [0, 1, 2]


def test_a_damaged_frame_comes_after_the_frames_before_it():
    def frames():
        yield from (1, 2)
        raise FileError("frame 2 is damaged")

    video = decoded(frames())
    assert [next(video), next(video)] == [1, 2]
    with pytest.raises(FileError, match="frame 2"):
        next(video)
    assert list(decoded([])) == []


def photos(folder, sizes):
    """Noise; a size of None is a file that is no image."""
    folder.mkdir()
    for index, size in enumerate(sizes):
        path = folder / f"{index}.png"
        if size is None:
            path.write_bytes(b"no image")
        else:
            noise = np.random.default_rng(index).integers(0, 255, (*size, 3), np.uint8)
            Image.fromarray(noise).save(path)
    return folder


def predictor(device="cpu"):
    image, mask = torch.rand(3, 24, 40, generator=torch.Generator().manual_seed(0)), torch.zeros(24, 40).long()
    mask[:, 15:] = 7
    return Predictor(InContext(tiny_model().eval().to(device), "ridge").fit(image, mask))


@pytest.mark.parametrize("kind", ["segmentation", "normals"])
def test_a_batch_gives_what_its_images_give_one_by_one(kind):
    image = torch.rand(3, 24, 40, generator=torch.Generator().manual_seed(0))
    context = InContext(tiny_model().eval(), "ridge").fit(image, image - 0.4) if kind == "normals" else None
    fitted = predictor() if context is None else Predictor(context, "normals")
    images = torch.rand(4, 3, 20, 28, generator=torch.Generator().manual_seed(1))
    for budget in (None, "1GB"):
        whole = fitted.scores(images, budget)
        assert len(whole) == 4
        assert max(float((fitted.scores(i, budget) - w).abs().max()) for i, w in zip(images, whole, strict=True)) < 1e-5
    assert fitted.predict(images).shape == (4, *fitted.predict(images[0]).shape)
    assert fitted.context.predict(images[:1]).shape == (1, *fitted.context.predict(images[0]).shape)
    with pytest.raises(InputError, match=r"one image for a target, or a list of each; got \[4, 3, 20, 28\]"):
        fitted.context.fit(images, torch.zeros(20, 28).long())


def test_a_photo_that_changes_once_it_is_read_is_predicted_again(tmp_path, monkeypatch):
    folder, writer = photos(tmp_path / "in", [(24, 40)] * 3), Writer(predictor(), tmp_path / "out", pictures=False)
    queries, write = expand([folder]), Writer.write

    def changing(self, query, *read):
        if query.name == "1":
            Image.new("RGB", (10, 10)).save(query.path)
        return write(self, query, *read)

    monkeypatch.setattr(Writer, "write", changing)
    assert run(queries, writer).new == 3
    monkeypatch.setattr(Writer, "write", write)
    again = run(queries, writer)
    assert (again.new, again.before) == (1, 2)
    assert load_mask(tmp_path / "out/masks/1.png").shape == (10, 10)


@pytest.mark.pretend_gpu
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler (c++, g++ or clang++) for the pretended device")
def test_a_folder_is_predicted_in_batches_on_a_device_with_the_same_masks_and_faults(tmp_path, monkeypatch):
    sizes, encoded, encode = [(24, 40)] * 11 + [(16, 40), None] + [(24, 40)] * 2, [], DenseModel.encode
    queries = expand([photos(tmp_path / "in", sizes)])

    def counted(model, images):
        encoded.append(len(images))
        return encode(model, images)

    monkeypatch.setattr(DenseModel, "encode", counted)
    one = run(queries, Writer(predictor(), tmp_path / "cpu", pictures=False))
    assert encoded == [1] * 15  # the example is one
    with pretend() as gpu:
        writer = Writer(predictor("cuda:1"), tmp_path / "cuda", pictures=False)
        encoded.clear()
        two = run(queries, writer)
        assert sum(encoded) == 14
        assert max(encoded) == 8
        assert gpu.touched == {1}
        encoded.clear()
        bounded = run(queries, Writer(writer.predictor, tmp_path / "less", pictures=False, max_memory="1MB"))
        assert 1 <= max(encoded) < 8
        (tmp_path / "in/12.png").rename(tmp_path / "in/99.png")
        encoded.clear()
        each = writer.predictor.predict(tmp_path / "in")
        for path, labels in itertools.islice(each, 14):
            assert torch.equal(labels, load_mask(tmp_path / f"cuda/masks/{path.stem}.png"))
        with pytest.raises(FileError, match=r"99\.png is not an image"):
            next(each)
        assert max(encoded) == 8
    assert one.skipped == two.skipped == bounded.skipped
    assert [str(path.name) for path in one.skipped] == ["12.png"]
    for folder in ("cuda", "less"):
        for index in (i for i, size in enumerate(sizes) if size is not None):
            masks = [load_mask(tmp_path / where / f"masks/{index}.png") for where in ("cpu", folder)]
            assert float((masks[0] == masks[1]).float().mean()) > 0.99, (folder, index)


@pytest.mark.pretend_gpu
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler (c++, g++ or clang++) for the pretended device")
def test_an_image_whose_features_are_not_finite_is_named_and_its_batch_is_not_lost(tmp_path, monkeypatch):
    queries, encode = expand([photos(tmp_path / "in", [(24, 40)] * 4)]), DenseModel.encode
    poison = load(tmp_path / "in/2.png")

    def poisoned(model, images):
        features, padded = encode(model, images)
        for image, deep in zip(images, features.maps[-1], strict=True):
            if torch.equal(image.cpu(), poison):
                deep.fill_(torch.nan)
        return features, padded

    with pretend():
        writer = Writer(predictor("cuda:0"), tmp_path / "out", pictures=False)
        monkeypatch.setattr(DenseModel, "encode", poisoned)
        summary = run(queries, writer)
    assert summary.new == 3
    assert [path.name for path in summary.skipped] == ["2.png"]
    assert "NaN or infinity" in next(iter(summary.skipped.values()))


@pytest.mark.pretend_gpu
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler (c++, g++ or clang++) for the pretended device")
@pytest.mark.parametrize("half", [[], ["--half"]])
def test_features_of_a_batch_are_those_of_its_images(half, tmp_path, monkeypatch):
    folder, encoded, encode = photos(tmp_path / "in", [(24, 40)] * 3 + [None]), [], DenseModel.encode

    def counted(model, images):
        encoded.append(len(images))
        return encode(model, images)

    monkeypatch.setattr(DenseModel, "encode", counted)
    words = ["features", "rgb-xy", *(str(folder / f"{i}.png") for i in range(4)), *half, "--out"]
    assert cli.main([*words, str(tmp_path / "cpu"), "--device", "cpu"]) == 2  # the last is no image
    assert encoded == [1, 1, 1]
    with pretend():
        assert cli.main([*words, str(tmp_path / "cuda"), "--device", "cuda:1"]) == 2
    assert encoded[3:] == [3]
    for index in range(3):
        one, two = (load_file(tmp_path / where / f"{index}.safetensors") for where in ("cpu", "cuda"))
        assert one.keys() == two.keys()
        for key, values in one.items():
            assert values.dtype == two[key].dtype
            torch.testing.assert_close(values, two[key], rtol=1e-3, atol=1e-3)


@pytest.mark.pretend_gpu
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler (c++, g++ or clang++) for the pretended device")
def test_a_batch_that_the_device_has_no_memory_for_is_done_one_by_one(tmp_path, monkeypatch):
    queries = expand([photos(tmp_path / "in", [(24, 40)] * 4)])
    most = [1]
    with pretend():
        fitted = predictor("cuda:0")
        monkeypatch.setattr(DenseModel, "encode", without_room(most))
        assert run(queries, Writer(fitted, tmp_path / "out", pictures=False)).new == 4
        most[0] = 0
        summary = run(queries, Writer(fitted, tmp_path / "none", pictures=False))
        assert len(summary.skipped) == 4
        reasons = "".join(summary.skipped.values())
        assert reasons.count("1 images. cuda:0 has 85.9 GB of 85.9 free now: max_memory=") == 4


@pytest.mark.pretend_gpu
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler (c++, g++ or clang++) for the pretended device")
def test_as_many_images_go_together_as_memory_has_room_for(monkeypatch):
    assert Room(tiny_model().eval())((24, 40)) == 1  # a CPU
    with pretend():
        model = tiny_model().eval().to("cuda")
        budgets = [Room(model, budget)((240, 400)) for budget in (10**11, 10**8, 5 * 10**7, 2 * 10**7, 10**6)]
        assert budgets[0] == 8
        assert budgets[-1] == 1
        assert budgets == sorted(budgets, reverse=True)
        assert len(set(budgets)) > 2
        assert Room(model, 10**8)((240, 400)) >= Room(model, 10**8, channels=500)((240, 400))
        whole = Room(model)
        assert [whole(size) for size in ((24, 40), (24, 80), (48, 80), (240, 400), (12, 20))] == [8, 4, 2, 1, 8]
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (10**6, 10**9))
        assert Room(model)((240, 400)) == 1


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
