"""The cue cache: equal to what is computed live, whole after a kill, shared out, refused when stale."""

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dense_ctx_lila.cue_cache import CueCache, find_clips, plan_cues, short_side
from dense_ctx_lila.cue_cache.clips import stamp
from dense_ctx_lila.cue_cache.shards import HEADER, row, rows
from dense_ctx_lila.cues.base import Cue, create_cue, normalize_cues
from PIL import Image
from safetensors.torch import load_file

from dense_ctx import registry
from dense_ctx.cli import main
from dense_ctx.data import open_set
from dense_ctx.data.video import Video, write_video
from dense_ctx.errors import ConfigError, FileError, InputError
from dense_ctx.kinds import Entry, Kind, Owner


class Brightness(Cue):
    """A single-frame cue: the mean of the colours, times `factor`."""

    channels, unit, pair, meaning = 1, "share of white", False, "larger is brighter"

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, context, query):
        return tuple(frames.mean(1, keepdim=True) * self.factor for frames in (context, query))


class Ratio(Cue):
    """A pair cue that does not follow from the swapped pair."""

    channels, unit, pair, meaning = 3, "ratio", True, "context over query, and the query's square"

    def forward(self, context, query):
        return context / (query + 1), query**2 - context


def factory(factor=1.0):
    return Brightness(factor)


class Broken(Brightness):
    """Gives what float16 cannot hold."""

    def forward(self, context, query):
        return tuple(one * 1e6 for one in super().forward(context, query))


@pytest.fixture(autouse=True)
def _test_cues():
    own = registry()
    entries = {
        ("cue", f"test:{name}"): Entry("cue", f"test:{name}", f"{__name__}:{name.title()}", Owner("t", "tests", "1"))
        for name in ("brightness", "ratio", "broken")
    }
    entries["cue", "test:factory"] = Entry("cue", "test:factory", f"{__name__}:factory", Owner("t", "tests", "1"))
    own.commit(entries, {"cue": Kind("cue", "dense_ctx_lila.cues.base:Cue")})
    yield
    for key in entries:
        own._entries.pop(key, None)


def frames_of(seed, count, height=50, width=70):
    from torch.nn import functional

    noise = torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(seed))
    scene = functional.interpolate(noise, (height + 20, width + 40), mode="bicubic").clamp(0, 1)[0]
    pixels = (scene.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    return [pixels[i : i + height, 2 * i : 2 * i + width] for i in range(count)]


@pytest.fixture
def videos(tmp_path):
    """Two files, a folder of frames, one below a folder: four clips of 9, 7, 6 and 5 frames."""
    root = tmp_path / "videos"
    write_video(root / "bear.mp4", frames_of(0, 9))
    write_video(root / "fox.mkv", frames_of(1, 7))
    for name, seed, count in (("hare", 2, 6), ("birds/owl", 3, 5)):
        (root / name).mkdir(parents=True)
        for index, frame in enumerate(frames_of(seed, count)):
            Image.fromarray(frame).save(root / name / f"{index:03d}.png")
    return root


def live(cue, path, t, gap, size):
    pictures = [torch.from_numpy(frame.copy()).permute(2, 0, 1) / 255 for frame in Video(path)]
    context, query = (short_side(pictures[i][None], size) for i in (t, t + gap))
    return tuple(one[0] for one in cue(context, query))


def test_clips_are_found_and_named(videos):
    clips = find_clips([videos])
    assert [clip.name for clip in clips] == ["bear", "birds/owl", "fox", "hare"]
    assert [clip.name for clip in find_clips([videos / "bear.mp4", videos / "hare"])] == ["bear", "hare"]
    shutil.copy(videos / "bear.mp4", videos / "fox.mp4")
    with pytest.raises(InputError, match="both called 'fox'"):
        find_clips([videos])
    with pytest.raises(FileError, match="No video or folder"):
        find_clips([videos / "none"])
    (videos.parent / "empty").mkdir()
    with pytest.raises(FileError, match="no folder of frames under"):
        find_clips([videos.parent / "empty"])


def test_rows_are_numbered_in_the_order_frames_come():
    for gaps in ((1,), (1, 3), (2, 5), (1, 2, 3, 4, 5)):
        for frames in (1, 2, 4, 11):
            order = [(s - g, g) for s in range(frames) for g in gaps if s >= g]
            assert [row(t, g, gaps) for t, g in order] == list(range(rows(frames, gaps)))


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_what_is_read_is_what_is_computed(videos, tmp_path, batch):
    names = ["flow:dis", "test:brightness", "test:ratio"]
    gaps, size, out = (1, 3), 41, tmp_path / "cache"
    report = plan_cues([videos], names, out, gaps=gaps, size=size, batch=batch).run()
    assert sorted(report.computed) == ["bear", "birds/owl", "fox", "hare"]
    cache = CueCache(out, names, size, gaps)
    assert cache.channels == {"flow:dis": slice(0, 2), "test:brightness": slice(2, 3), "test:ratio": slice(3, 6)}
    assert cache.flow == [0]
    cues = [create_cue(name) for name in names]
    for clip, path, count in (("bear", videos / "bear.mp4", 9), ("birds/owl", videos / "birds" / "owl", 5)):
        assert cache.frames(clip) == count
        assert cache.size(clip) == (41, 57)
        for t, gap in ((0, 1), (1, 3), (count - 1, -1), (3, -3), (count - 4, 3)):
            context, query = cache.get(clip, t, gap)
            expected = [torch.cat(maps) for maps in zip(*(live(cue, path, t, gap, size) for cue in cues), strict=True)]
            assert context.shape == query.shape == (6, 41, 57)
            assert context.dtype == torch.float32
            # float16 keeps 11 bits; whether a batch or one pair is computed changes the last bits of the cue's own
            assert torch.allclose(context, expected[0], rtol=2**-10, atol=1e-5)
            assert torch.allclose(query, expected[1], rtol=2**-10, atol=1e-5)
    stacked = [one[None] for one in cache.get("bear", 2, 1)]
    assert normalize_cues(*stacked, flow=cache.flow, size=cache.size("bear"))[0].isfinite().all()


def test_a_file_is_plain_safetensors_and_as_large_as_was_said(videos, tmp_path):
    plan = plan_cues([videos / "hare"], ["flow:dis"], tmp_path / "out", gaps=[1, 2])
    report = plan.run()
    maps = load_file(tmp_path / "out" / "flow@dis" / "hare.safetensors")["maps"]
    assert maps.dtype == torch.float16
    assert maps.shape == (5 + 4, 2, 2, 50, 70)
    size = (tmp_path / "out" / "flow@dis" / "hare.safetensors").stat().st_size
    assert plan.bytes == report.written == size


def test_clips_are_known_by_name_path_and_as_clips_of_a_data_set(videos, tmp_path):
    plan_cues([videos], ["test:brightness"], tmp_path / "out").run()
    cache = CueCache(tmp_path / "out", ["test:brightness"])
    expected = cache.get("bear", 1, 2)[0]
    shutil.rmtree(videos / "birds")  # the layout "clips" is flat
    (clip,) = [one for one in open_set("clips", videos).clips if one.name == "bear"]
    for known in (videos / "bear.mp4", str(videos / "bear.mp4"), "anything/bear", clip):
        assert torch.equal(cache.get(known, 1, 2)[0], expected)
        assert known in cache
    frames = [one for one in open_set("clips", videos).clips if one.name == "hare"]
    assert torch.equal(cache.get(frames[0], 1, 2)[0], cache.get(videos / "hare", 1, 2)[0])
    assert "lion" not in cache
    with pytest.raises(FileError, match="no clip 'lion'"):
        cache.get("lion", 0, 1)
    copy = pickle.loads(pickle.dumps(cache))  # to a worker
    assert torch.equal(copy.get("bear", 1, 2)[0], expected)


def test_pairs_that_are_not_there_are_refused(videos, tmp_path):
    plan_cues([videos], ["test:ratio", "test:brightness"], tmp_path / "out", gaps=[1, 2]).run()
    cache = CueCache(tmp_path / "out", ["test:ratio"])
    with pytest.raises(ConfigError, match=r"gaps \[1, 2\] in both directions; asked for -3"):
        cache.get("bear", 4, -3)
    with pytest.raises(InputError, match=r"it has 0 \.\. 8"):
        cache.get("bear", 8, 1)
    with pytest.raises(ConfigError, match=r"gaps \[1, 2\], not \[5\]"):
        CueCache(tmp_path / "out", ["test:ratio"], gaps=[1, -5])
    single = CueCache(tmp_path / "out", ["test:brightness"], gaps=[5])  # needs no gaps
    assert torch.equal(*(single.get("bear", 3, gap)[k] for gap, k in ((5, 0), (0, 1))))


def test_a_stale_cache_is_refused_by_name(videos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    plan_cues([videos], ["test:brightness"], out, size=40).run()
    for arguments, message in (
        ({"cues": ["test:brightness(factor=2.0)"], "size": 40}, r"args\.factor: 1\.0 there, 2\.0 now"),
        ({"cues": ["test:brightness"], "size": 48}, "size: 40 there, 48 now"),
        ({"cues": ["test:brightness"]}, "size: 40 there, None now"),
    ):
        with pytest.raises(ConfigError, match=message):
            CueCache(out, **arguments)
        with pytest.raises(ConfigError, match=message):
            plan_cues([videos], arguments["cues"], out, size=arguments.get("size"))
    with pytest.raises(FileError, match="no maps of the cue 'flow:dis'; it has test:brightness"):
        CueCache(out, ["flow:dis"], 40)
    assert CueCache(out, ["test:brightness(factor=1.0)"], 40)  # the default, said aloud
    monkeypatch.setattr(Brightness, "version", 2)
    with pytest.raises(ConfigError, match="version: 1 there, 2 now"):
        CueCache(out, ["test:brightness"], 40)


def test_a_cue_without_a_version_is_not_cached(videos, tmp_path):
    with pytest.raises(ConfigError, match=r"'test:factory' is registered by <function factory.* version is unknown"):
        plan_cues([videos], ["test:factory"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_changed_weights_file_is_another_cue(tmp_path, videos):
    """What an argument names is part of the identity, not its path alone."""
    from dense_ctx_lila.cue_cache.manifest import identity

    from dense_ctx.config import Part

    file = tmp_path / "weights.pth"
    file.write_bytes(b"one")
    before = identity(Part("flow:raft-small", {"weights": str(file)}), None)
    file.write_bytes(b"two")
    after = identity(Part("flow:raft-small", {"weights": str(file)}), None)
    assert before["files"]["weights"] != after["files"]["weights"]
    assert before["args"] == after["args"]
    assert before["args"]["iterations"] == 12  # defaults count


def test_a_changed_video_is_refused_when_read_and_computed_again(videos, tmp_path):
    out = tmp_path / "out"
    plan_cues([videos], ["test:brightness"], out).run()
    write_video(videos / "bear.mp4", frames_of(9, 4))
    Image.fromarray(frames_of(9, 1)[0]).save(videos / "hare" / "000.png")
    cache = CueCache(out, ["test:brightness"])
    for path in (videos / "bear.mp4", videos / "hare"):
        with pytest.raises(ConfigError, match=r"the video is another one \(.*sha256"):
            cache.get(path, 0, 1)
    report = plan_cues([videos], ["test:brightness"], out).run()
    assert report.computed == ["bear", "hare"]
    assert report.complete == ["birds/owl", "fox"]
    assert CueCache(out, ["test:brightness"]).frames(videos / "bear.mp4") == 4


def test_broken_videos_are_left_out_and_counted(videos, tmp_path):
    whole = (videos / "bear.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "text.avi").write_text("no video")
    (videos / "one").mkdir()
    Image.fromarray(frames_of(0, 1)[0]).save(videos / "one" / "0.png")
    (videos / "two").mkdir()
    for index, width in enumerate((70, 60)):
        Image.fromarray(frames_of(0, 1, 50, width)[0]).save(videos / "two" / f"{index}.png")
    with pytest.warns(UserWarning, match="left out") as caught:
        report = plan_cues([videos], ["flow:dis"], tmp_path / "out").run()
    assert sorted(report.broken) == ["cut", "one", "text", "two"]
    assert len([w for w in caught if "left out" in str(w.message)]) == 4
    assert "a gap of 1 needs more" in report.broken["one"]
    assert "frames have one size" in report.broken["two"]
    assert sorted(report.computed) == ["bear", "birds/owl", "fox", "hare"]
    with pytest.warns(UserWarning, match="left out"):  # found again; the clips that are done make it no failure
        assert len(plan_cues([videos], ["flow:dis"], tmp_path / "out").run().complete) == 4
    left = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert left == ["bear.safetensors", "fox.safetensors", "hare.safetensors", "manifest.json", "owl.safetensors"]
    with pytest.raises(FileError, match="None of 1 clips is usable"):
        plan_cues([videos / "text.avi"], ["flow:dis"], tmp_path / "other")
    with pytest.warns(UserWarning, match="one is left"), pytest.raises(FileError, match="None of 1 clips is usable"):
        plan_cues([videos / "one"], ["flow:dis"], tmp_path / "other").run()


def test_maps_that_float16_cannot_hold_are_no_cache(videos, tmp_path):
    with pytest.warns(UserWarning, match="beyond 65504"), pytest.raises(FileError, match="None of 4"):
        plan_cues([videos], ["test:broken"], tmp_path / "out").run()
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(videos, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    with pytest.raises(FileError, match=r"needs about 0\.\d+ GB"):
        plan_cues([videos], ["flow:dis"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_cache_of_hundreds_of_thousands_of_clips_is_refused_with_its_size(videos, tmp_path, monkeypatch):
    one = plan_cues([videos], ["flow:dis"], tmp_path / "a")
    clip = one.clips[0]
    single = plan_cues([clip.path], ["flow:dis"], tmp_path / "b").bytes
    many = [replace(clip, name=f"class/{index}") for index in range(50_000)]
    monkeypatch.setattr("dense_ctx_lila.cue_cache.precompute.find_clips", lambda videos: many)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=single * 49_999))
    needed = f"{single * 50_000 / 1e9:.2f}"
    with pytest.raises(FileError, match=rf"needs about {re.escape(needed)} GB more .* or no cache: training computes"):
        plan_cues([videos], ["flow:dis"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_foreign_folder_is_not_written_to(videos, tmp_path):
    (tmp_path / "out" / "flow@dis").mkdir(parents=True)
    (tmp_path / "out" / "flow@dis" / "thesis.tex").write_text("mine")
    with pytest.raises(FileError, match="exists and holds no cue cache"):
        plan_cues([videos], ["flow:dis"], tmp_path / "out")


def test_a_damaged_file_is_said_and_computed_again(videos, tmp_path):
    out = tmp_path / "out"
    plan_cues([videos], ["test:brightness"], out).run()
    path = out / "test@brightness" / "bear.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(FileError, match="missing or damaged"):
        CueCache(out, ["test:brightness"]).get("bear", 0, 1)
    assert plan_cues([videos], ["test:brightness"], out).run().computed == ["bear"]
    assert CueCache(out, ["test:brightness"]).get("bear", 0, 1)[0].shape == (1, 50, 70)


def test_a_flipped_byte_is_an_error(videos, tmp_path):
    out = tmp_path / "out"
    plan_cues([videos], ["test:brightness"], out).run()
    path = out / "test@brightness" / "bear.safetensors"
    content = bytearray(path.read_bytes())
    content[HEADER + 3 * 50 * 70 * 2 + 9] ^= 1  # in frame 3
    path.write_bytes(content)
    cache = CueCache(out, ["test:brightness"])
    assert cache.get("bear", 1, 1)[0].isfinite().all()
    with pytest.raises(FileError, match=r"bear\.safetensors is damaged .*remove it and make it again"):
        cache.get("bear", 2, 1)


def test_cues_are_added_to_a_cache_one_by_one(videos, tmp_path):
    out = tmp_path / "out"
    plan_cues([videos], ["test:brightness"], out).run()
    before = (out / "test@brightness" / "bear.safetensors").stat().st_mtime_ns
    plan_cues([videos], ["test:brightness", "flow:dis"], out).run()
    assert (out / "test@brightness" / "bear.safetensors").stat().st_mtime_ns == before
    assert CueCache(out, ["flow:dis", "test:brightness"]).get("bear", 0, 1)[0].shape == (3, 50, 70)


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again(videos, tmp_path):
    """SIGKILL while a clip is being written: finished clips stay, the half one is no clip, the rest is done later."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "dense_ctx.cli", "cues", str(videos), "--cues", "flow:dis", "--out", str(out)]
    slow = (  # the third clip never ends
        "import sys, time\nfrom dense_ctx_lila.cue_cache import precompute\nread = precompute.read_frames\n"
        "def slow(path, side):\n"
        "    for index, frame in enumerate(read(path, side)):\n"
        "        if path.name == 'fox.mkv' and index == 4:\n            time.sleep(600)\n"
        "        yield frame\n"
        "precompute.read_frames = slow\nfrom dense_ctx.cli import main\n"
        f"main({command[3:]!r} + ['--batch', '1'])\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", slow], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (partial := [*out.glob("flow@dis/.fox.safetensors.*.partial")]) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path.name: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert sorted(done) == ["bear.safetensors", "owl.safetensors"]
    os.utime(partial[0], (0, 0))  # a younger one might still be written, by another process
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "2 computed, 2 already complete, 0 left out" in again.stdout
    assert not partial[0].exists()
    now = {path.name: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert sorted(now) == ["bear.safetensors", "fox.safetensors", "hare.safetensors", "owl.safetensors"]
    assert all(now[name] == done[name] for name in done)
    whole = tmp_path / "whole"
    plan_cues([videos], ["flow:dis"], whole).run()
    for path in whole.rglob("*.safetensors"):
        assert torch.equal(load_file(path)["maps"], load_file(out / path.relative_to(whole))["maps"])


def test_two_processes_share_the_clips(videos, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    shares = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        assert main(["cues", str(videos), "--cues", "test:brightness", "--out", str(out), "--device", "cpu"]) == 0
        shares.append({path.stem for path in out.rglob("*.safetensors")})
    assert [len(one) for one in shares] == [2, 4]
    printed = capsys.readouterr().out
    assert "process 0 of 2: 2 computed, 0 already complete" in printed
    assert "process 1 of 2: 2 computed, 0 already complete" in printed
    monkeypatch.setenv("RANK", "0")
    assert main(["cues", str(videos), "--cues", "test:brightness", "--out", str(out), "--device", "cpu"]) == 0
    assert "process 0 of 2: 0 computed, 2 already complete" in capsys.readouterr().out


def test_command(videos, tmp_path, capsys):
    (videos / "text.avi").write_text("no video")
    out = tmp_path / "out"
    arguments = ["cues", str(videos), "--cues", "flow:dis(preset=fast)", "test:brightness", "--out", str(out)]
    assert main([*arguments, "--gaps", "1", "2", "--size", "40", "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert "5 clip(s); about" in printed.out
    assert "free" in printed.out
    assert "4 computed, 0 already complete, 1 left out" in printed.out
    assert "warning: text is left out" in printed.err
    cache = CueCache(out, ["flow:dis(preset=fast)", "test:brightness"], 40)
    assert cache.get("fox", 3, -2)[0].shape == (3, 40, 56)
    assert main([*arguments, "--size", "32", "--device", "cpu"]) == 2
    assert "size: 40 there, 32 now" in capsys.readouterr().err
    assert main(["cues", str(videos), "--cues", "flow:diss", "--out", str(out)]) == 2
    assert "flow:dis" in capsys.readouterr().err
    assert main(["cues", str(videos / "none"), "--cues", "flow:dis", "--out", str(out)]) == 2


@pytest.mark.parametrize("wrong", [{"gaps": [0]}, {"gaps": []}, {"size": 3}, {"batch": 0}, {"rank": 2, "world": 2}])
def test_numbers_are_checked(videos, tmp_path, wrong):
    with pytest.raises(InputError):
        plan_cues([videos], ["flow:dis"], tmp_path / "out", **wrong)
    with pytest.raises(InputError):
        plan_cues([videos], ["flow:dis", "flow:dis"], tmp_path / "out")


def test_no_absolute_path_is_kept(videos, tmp_path):
    plan_cues([videos], ["test:brightness"], tmp_path / "out").run()
    for path in Path(tmp_path / "out").rglob("*"):
        assert not path.is_file() or str(tmp_path).encode() not in path.read_bytes()


def test_a_folder_s_last_frame_by_number_is_in_its_fingerprint(tmp_path):
    for name in ("1.png", "2.png", "10.png"):
        (tmp_path / name).write_bytes(b"one")
    before = stamp(tmp_path)
    (tmp_path / "10.png").write_bytes(b"two")
    assert stamp(tmp_path) != before
