import pickle
import shutil

import pytest
import torch

from dense_ctx.data import ImageSet, Sample
from dense_ctx.data.features import FeatureCache, fill_cache
from dense_ctx.errors import ConfigError, FileError, InputError
from dense_ctx.images import prepare, resized
from dense_ctx.testing.tiny import TinyBackbone


class Pictures(ImageSet):
    def __init__(self, count=7, seed=0, broken=None):
        self.names, self.seed, self.broken, self.reads = [f"image-{n}" for n in range(count)], seed, broken, []

    def __getitem__(self, index):
        self.reads.append(index)
        if index == self.broken:
            raise FileError(f"image-{index} is damaged")
        generator = torch.Generator().manual_seed(self.seed + index)
        image = torch.rand(3, 20 + index, 31, generator=generator)
        return Sample(self.names[index], image, torch.zeros(20 + index, 31, dtype=torch.int64))


def tiny(seed=0, **args):
    torch.manual_seed(seed)
    return TinyBackbone(**args)


SIZE = (20, 36)  # no multiple of the stride, 8


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr("dense_ctx.data.features.SHARD", 3)


def made(folder, images=None, backbone=None, **args):
    images, backbone = images or Pictures(), backbone or tiny()
    fill_cache(backbone, images, folder, SIZE, batch=2, **args)
    return FeatureCache(folder, backbone, images, SIZE, **args)


def test_what_is_read_is_what_the_backbone_gives(tmp_path):
    images, backbone = Pictures(), tiny().eval()
    cache = made(tmp_path / "c", images, backbone, layers=(0, -1))
    assert (len(cache), cache.size, cache.padded, cache.layers) == (7, (20, 36), (24, 40), [0, 1])
    got = cache.batch([6, 2])
    for row, index in enumerate((6, 2)):
        image = resized(images[index].image, SIZE)[None]
        with torch.no_grad():
            expected = backbone(prepare(image, backbone.mean, backbone.std, backbone.stride))
        for mine, theirs in zip(got.maps, expected.maps, strict=True):
            assert mine.dtype == torch.float32
            assert torch.equal(mine[row], theirs[0].half().float())
        assert torch.equal(got.cls[row], expected.cls[0].half().float())
    assert got.image_size == expected.image_size


def test_a_layer_keeps_its_index(tmp_path):
    cache = made(tmp_path / "c")
    got = cache.batch([0])
    assert [tuple(item.shape) for item in got.maps] == [(1, 0, 1, 1), (1, 10, 3, 5)]


def test_the_estimate_is_what_is_written(tmp_path, monkeypatch):
    estimates = []
    monkeypatch.setattr("dense_ctx.data.features.disk_space", lambda folder, needed, *_: estimates.append(needed))
    cache = fill_cache(tiny(), Pictures(), tmp_path / "c", SIZE)
    assert estimates == [7 * 2 * (10 * 3 * 5 + 10)]
    assert estimates[0] <= cache <= estimates[0] + 3 * 1024  # and three headers
    assert fill_cache(tiny(), Pictures(), tmp_path / "c", SIZE) == 0
    assert estimates[1:] == [0]


def test_it_goes_on_after_a_kill(tmp_path):
    backbone = tiny()
    with pytest.raises(FileError, match="image-5 is damaged"):
        fill_cache(backbone, Pictures(broken=5), tmp_path / "c", SIZE)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["features-00000.safetensors", "manifest.json"]
    images = Pictures()
    with pytest.raises(FileError, match="3 of 7 images"):
        FeatureCache(tmp_path / "c", backbone, images, SIZE)
    images.reads.clear()
    fill_cache(backbone, images, tmp_path / "c", SIZE)
    assert images.reads == [0, 3, 4, 5, 6]  # the first tells how large an image's maps are
    assert torch.equal(FeatureCache(tmp_path / "c", backbone, images, SIZE).batch([5]).maps[1],
                       made(tmp_path / "d", images, backbone).batch([5]).maps[1])  # fmt: skip


def test_an_open_data_set_is_read_once_to_be_known_again(tmp_path):
    images, backbone = Pictures(), tiny()
    made(tmp_path / "c", images, backbone)
    images.reads.clear()
    FeatureCache(tmp_path / "c", backbone, images, SIZE)
    assert images.reads == []
    other = Pictures()
    FeatureCache(tmp_path / "c", backbone, other, SIZE)
    assert other.reads == [0, 3, 6]


def test_damaged_files_are_made_again(tmp_path):
    backbone, images = tiny(), Pictures()
    cache = made(tmp_path / "c", images, backbone)
    file = tmp_path / "c" / "features-00001.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(FileError, match=r"features-00001.*damaged"):
        cache.batch([4])
    images.reads.clear()
    fill_cache(backbone, images, tmp_path / "c", SIZE)
    assert images.reads == [0, 3, 4, 5]
    assert cache.batch([4]).maps[1].shape == (1, 10, 3, 5)


def test_a_flipped_byte_is_an_error(tmp_path):
    cache = made(tmp_path / "c")
    before = cache.tensors(4)
    file = tmp_path / "c" / "features-00001.safetensors"
    content = bytearray(file.read_bytes())
    position = content.index(before["map1"].numpy().tobytes())
    content[position + 5] ^= 1
    file.write_bytes(content)
    cache = FeatureCache(tmp_path / "c", tiny(), Pictures(), SIZE)
    with pytest.raises(FileError, match=r"features-00001.*checksum of 'map1' differs.*make it again"):
        cache.batch([4])
    assert torch.equal(cache.tensors(3)["map1"], made(tmp_path / "d").tensors(3)["map1"])  # the other rows are whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: {"backbone": tiny(seed=1)}, "weights"),
        (lambda: {"backbone": tiny(dims=(6, 12))}, "weights"),
        (lambda: {"size": (20, 28)}, r"size: \[20, 36\] there, \[20, 28\] now"),
        (lambda: {"layers": (0,)}, r"layers: \[1\] there, \[0\] now"),
        (lambda: {"name": "other"}, "backbone: 'TinyBackbone' there, 'other' now"),
        (lambda: {"images": Pictures(6)}, "images: 7 there, 6 now"),
        (lambda: {"images": Pictures(seed=1)}, "pixels"),
    ],
)
def test_a_stale_cache_is_refused_and_says_why(tmp_path, change, words):
    made(tmp_path / "c")
    args = {"backbone": tiny(), "images": Pictures(), "size": SIZE, **change()}
    with pytest.raises(ConfigError, match=f"another feature cache.*{words}"):
        FeatureCache(tmp_path / "c", **args)
    with pytest.raises(ConfigError, match=f"another feature cache.*{words}"):
        fill_cache(folder=tmp_path / "c", **args)


def test_a_file_of_other_weights_is_refused(tmp_path):
    made(tmp_path / "a")
    made(tmp_path / "b", backbone=tiny(seed=1))
    shutil.copy(tmp_path / "b/features-00000.safetensors", tmp_path / "a/features-00000.safetensors")
    cache = FeatureCache(tmp_path / "a", tiny(), Pictures(), SIZE)
    with pytest.raises(ConfigError, match="other weights"):
        cache.batch([0])
    assert cache.batch([4]).maps[1].shape == (1, 10, 3, 5)


def test_processes_share_the_files(tmp_path, monkeypatch):
    backbone, images, first = tiny(), Pictures(), images_of_shards(0, 2)
    # one that looks later, when others have finished some, still has its own share and no less
    for rank, share in ((1, images_of_shards(1)), (0, first)):
        monkeypatch.setattr("dense_ctx.data.features.processes", lambda rank=rank: (rank, 2))
        images.reads.clear()
        fill_cache(backbone, images, tmp_path / "c", SIZE)
        assert images.reads[-len(share) :] == share
    assert len(FeatureCache(tmp_path / "c", backbone, images, SIZE).batch(range(7)).maps[1]) == 7


def images_of_shards(*numbers):
    return [index for number in numbers for index in range(3 * number, min(3 * number + 3, 7))]


def test_it_travels_to_workers(tmp_path):
    cache = made(tmp_path / "c")
    cache.batch([0])
    assert torch.equal(pickle.loads(pickle.dumps(cache)).batch([1]).maps[1], cache.batch([1]).maps[1])


def test_faults(tmp_path, monkeypatch):
    backbone, images = tiny(), Pictures()
    with pytest.raises(FileError, match="holds no feature cache"):
        FeatureCache(tmp_path / "nothing", backbone, images, SIZE)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(FileError, match="choose another folder"):
        fill_cache(backbone, images, tmp_path / "mine", SIZE)
    for args, words in (
        ({"images": Pictures(0)}, "no image"),
        ({"size": (0, 4)}, "at least 1"),
        ({"layers": (2,)}, "maps 0 to 1"),
        ({"layers": ()}, "maps 0 to 1"),
        ({"batch": 0}, "at least 1"),
    ):
        with pytest.raises(InputError, match=words):
            fill_cache(**{"backbone": backbone, "images": images, "folder": tmp_path / "c", "size": SIZE, **args})
    with pytest.raises(InputError, match="0 to 6"):
        made(tmp_path / "c").batch([7])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(FileError, match="free"):
        fill_cache(backbone, images, tmp_path / "d", SIZE)


def test_values_beyond_float16_are_refused(tmp_path):
    backbone = tiny()
    backbone.deep = torch.nn.Sequential(backbone.deep, torch.nn.Identity())
    with torch.no_grad():
        backbone.shallow.weight.fill_(float("nan"))
    with pytest.raises(InputError, match=r"map1 of image-0.*float16"):
        fill_cache(backbone, Pictures(), tmp_path / "c", SIZE)
