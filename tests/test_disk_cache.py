"""The disk cache under features, cues and targets: whole files, verified rows, resumption."""

import os
import pickle
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from dense_ctx.data import cache as cache_module
from dense_ctx.data.cache import DiskCache, Shard, disk_space, write_shard
from dense_ctx.errors import FileError
from dense_ctx.persistence.identity import Identity
from dense_ctx.persistence.tensors import specs


def tensors(seed=0, rows=3):
    generator = torch.Generator().manual_seed(seed)
    return {
        "map": torch.rand(rows, 2, 3, generator=generator).half(),
        "index": torch.randint(0, 99, (rows, 2), generator=generator),
        "one": torch.rand(rows, generator=generator),
    }


def opened(folder, **settings):
    return DiskCache(Identity(folder / "manifest.json", "cache"), {"format": 1, **settings}, Shard)


def test_what_is_read_is_what_was_written(tmp_path):
    content = tensors()
    size = write_shard(tmp_path / "below/a.safetensors", content, {"weights": "x"})
    assert size == (tmp_path / "below/a.safetensors").stat().st_size
    shard = Shard(tmp_path / "below/a.safetensors")
    assert shard.specs == specs(content)
    assert shard.metadata == {"weights": "x"}
    for key, value in content.items():
        assert shard.tensor(key).dtype == value.dtype
        assert torch.equal(shard.tensor(key), value)
        assert all(torch.equal(shard.row(key, index), value[index]) for index in range(3))
    plain = load_file(tmp_path / "below/a.safetensors")  # any reader of safetensors can use it
    assert all(torch.equal(plain[key], value) for key, value in content.items())
    write_shard(tmp_path / "empty.safetensors", {"rows": torch.empty(0, 4)})
    assert Shard(tmp_path / "empty.safetensors").tensor("rows").shape == (0, 4)


def test_a_shard_without_checksums_is_refused(tmp_path):
    save_file(tensors(), tmp_path / "a.safetensors")
    with pytest.raises(FileError, match="damaged"):
        Shard(tmp_path / "a.safetensors")


def test_a_shard_whose_dtype_was_changed_is_refused(tmp_path):
    """The same bytes as other numbers: checksums of the bytes alone would not see it."""
    path = tmp_path / "a.safetensors"
    write_shard(path, {"map": torch.rand(2, 3).half()})
    path.write_bytes(path.read_bytes().replace(b'"F16"', b'"I16"'))
    with pytest.raises(FileError, match="the checksum of 'map' differs"):
        Shard(path).row("map", 1)


def test_no_flipped_byte_gives_another_value(tmp_path):
    path, content = tmp_path / "a.safetensors", tensors()
    write_shard(path, content)
    whole = path.read_bytes()
    values = sum(value.numel() * value.element_size() for value in content.values())
    assert len(whole) > values
    refused = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        try:
            shard = Shard(path)
            for key, value in content.items():
                assert torch.equal(torch.stack([shard.row(key, index) for index in range(3)]), value), position
                assert torch.equal(shard.tensor(key), value), position
        except FileError:
            refused += 1
    assert refused >= values


@pytest.mark.parametrize("length", [0, 7, 60, -1])
def test_a_file_cut_short_is_damaged(tmp_path, length):
    path = tmp_path / "a.safetensors"
    write_shard(path, tensors())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(FileError, match=r"a\.safetensors is missing or damaged .*make it again"):
        Shard(path)
    assert not opened(tmp_path).complete("a", specs(tensors()))


def test_tensors_that_do_not_exist(tmp_path):
    write_shard(tmp_path / "a.safetensors", tensors())
    with pytest.raises(FileError, match=r"holds no tensor 'maps' \(it has index, map, one\)"):
        Shard(tmp_path / "a.safetensors").tensor("maps")
    with pytest.raises(FileError, match="missing or damaged"):
        Shard(tmp_path / "b.safetensors")


def test_few_files_stay_open_and_none_travels(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "_OPEN", 2)
    cache = opened(tmp_path)
    for number in range(5):
        cache.write(str(number), tensors(number))
    for number in (0, 1, 0, 2, 0, 3, 4, 0):
        assert torch.equal(cache.shard(str(number)).tensor("map"), tensors(number)["map"])
        assert len(cache._open) <= 2
    copy = pickle.loads(pickle.dumps(cache))
    assert len(copy._open) == 0
    assert torch.equal(copy.shard("3").tensor("map"), tensors(3)["map"])
    assert cache.shard("0") is cache.shard("0")


def test_a_shard_written_again_is_read_anew(tmp_path):
    cache = opened(tmp_path)
    for seed in range(2):
        cache.write("a", tensors(seed))
        assert torch.equal(cache.shard("a").row("map", 2), tensors(seed)["map"][2])


def test_a_full_disk_is_said_before_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    assert disk_space(tmp_path / "not/yet", 100, "cache", "fewer") == 100
    with pytest.raises(FileError, match=r"The cache needs about 0\.00 GB more in .*not/yet.* free: take fewer"):
        disk_space(tmp_path / "not/yet", 101, "cache", "take fewer")
    assert not (tmp_path / "not").exists()
    cache = opened(tmp_path / "c")
    cache.claim()
    cache.write("a", tensors())

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"Cannot write .*b\.safetensors.*No space left.*Finished files are kept"):
        cache.write("b", tensors())
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["a.safetensors", "manifest.json"]


KILLED = """
import os, signal, sys
from pathlib import Path
from safetensors import torch as saving
from test_disk_cache import opened, tensors
cache = opened(Path(sys.argv[1]))
cache.claim()
save = saving.save
def dies(content, metadata):
    Path(sys.argv[1], ".b.1.partial.safetensors").write_bytes(save(content, metadata)[:100])
    os.kill(os.getpid(), signal.SIGKILL)
cache.write("a", tensors(0))
saving.save = dies
cache.write("b", tensors(1))
"""


def test_a_kill_half_way_leaves_whole_files(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    ran = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    cache = opened(tmp_path)
    assert cache.check() == {"format": 1}
    assert [cache.complete(name, specs(tensors())) for name in "ab"] == [True, False]
    cache.write("b", tensors(1))
    assert torch.equal(cache.shard("b").tensor("map"), tensors(1)["map"])
