"""Loading is strict about tensors, keeps a model's floating-point type, and leaves random generators alone; locks."""

import json
import math
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from dense_ctx_predict.context_files import load_context, save_context
from evaluation_data import camvid
from safetensors.torch import load_file, save_file
from train_parts import config, install, lay_out, settings

from dense_ctx import AutoDenseModel, InContext, cli
from dense_ctx.errors import CheckpointError, ConfigError, FileError
from dense_ctx.files import file_digest, write_json
from dense_ctx.persistence.artefact import MANIFEST, Artefact
from dense_ctx.persistence.hub import local_folder
from dense_ctx.persistence.lock import locked
from dense_ctx.persistence.tensors import read_sealed, require_state, write_sealed
from dense_ctx.testing import tiny_model
from dense_ctx.train import train

OPTIONS = {
    "ridge": {},
    "knn": {},
    "ensemble": {},
    "linear": {},
    "conv": {"updates": 2},
    "attention": {"updates": 2},
    "retrieval": {},
    "zero-shot": {"updates": 2, "embeddings": "random"},
    "propagation": {},
}
THINGS = Artefact("thing", ("a.json", "b.json"))
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, links and signals of POSIX")


def scene(size=(16, 24)):
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(size, dtype=torch.int64)
    mask[:, size[1] // 3 :] = 1
    mask[size[0] // 2 :, size[1] // 2 :] = 2
    return image, mask


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def seal(folder, name):
    """Make a folder's manifest true again."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["sha256"][name] = file_digest(folder / name)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def faulty(tensors):
    """Every way in which one tensor can be wrong: (what, name, tensors)."""
    moments = [name for name in tensors if name.startswith("optimizer.")]
    for name, value in tensors.items():
        if name in moments[3:]:
            continue  # alike
        yield "missing", name, {key: other for key, other in tensors.items() if key != name}
        for axis in range(value.ndim):
            longer = torch.cat([value, value.narrow(axis, 0, 1)], axis)
            yield f"longer in axis {axis}", name, {**tensors, name: longer}
        yield "one more axis", name, {**tensors, name: value[None]}
        other = torch.float64 if value.dtype == torch.float32 else torch.float32
        yield "dtype", name, {**tensors, name: value.to(other)}
    yield "left over", "extra", {**tensors, "extra": torch.zeros(2)}


@pytest.mark.parametrize("method", OPTIONS)
def test_a_probe_with_tensors_that_are_not_its_own_is_refused(method, model, tmp_path):
    folder = save_context(InContext(model, method, **OPTIONS[method]).fit(*scene()), tmp_path / "c")
    path = folder / "probe.safetensors"
    good, cases = {name: value.clone() for name, value in load_file(path).items()}, 0  # the file is written over
    for what, name, tensors in faulty(good):
        save_file(tensors, path)
        seal(folder, path.name)
        with pytest.raises(CheckpointError) as caught:
            load_context(folder, model)
        cases += 1
        if what in ("missing", "left over", "one more axis", "dtype"):
            assert name in str(caught.value) or "no tensor has 3 outputs" in str(caught.value), f"{what} {name}"
    save_file(good, path)
    seal(folder, path.name)
    assert load_context(folder, model).classes_ == [0, 1, 2]
    print(f"{method}: {cases} of {cases} refused")
    assert cases >= 10


@pytest.mark.parametrize("key", ["method", "classes", "outputs", "colour"])
def test_the_words_of_a_context_are_strict_too(key, model, tmp_path):
    folder = save_context(InContext(model).fit(*scene()), tmp_path / "c")
    words = json.loads((folder / "probe.json").read_text())
    words = {**words, "colour": 1} if key == "colour" else {k: v for k, v in words.items() if k != key}
    (folder / "probe.json").write_text(json.dumps(words))
    seal(folder, "probe.json")
    with pytest.raises(ConfigError, match=key):
        load_context(folder, model)


def test_a_letter_is_one_length_wherever_it_stands():
    layout = {"a": (torch.float32, ("n", 2)), "b": (torch.float32, ("n",))}
    good = {"a": torch.zeros(3, 2), "b": torch.zeros(3)}
    require_state(good, layout, "x")
    with pytest.raises(CheckpointError, match=r"^x: b is \[4\], not \[3\]$"):
        require_state({**good, "b": torch.zeros(4)}, layout, "x")
    with pytest.raises(CheckpointError, match=r"b is torch.float16, not torch.float32"):
        require_state({**good, "b": torch.zeros(3).half()}, layout, "x")
    require_state({**good, "b": torch.zeros(3).half()}, layout, "x", cast=True)
    with pytest.raises(CheckpointError, match=r"missing t0; .*missing t5 and 4 more"):
        require_state({}, {f"t{n}": (torch.float32, ()) for n in range(10)}, "x")


def test_a_sealed_file_vouches_for_its_words(tmp_path):
    path = write_sealed(tmp_path / "a.safetensors", {"t": torch.arange(3.0)}, {"step": "12"})
    assert read_sealed(path)[1] == {"step": "12"}
    path.write_bytes(path.read_bytes().replace(b'"12"', b'"13"'))
    with pytest.raises(CheckpointError, match="is damaged"):
        read_sealed(path)


DTYPES = [torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("standalone", [False, True])
def test_a_model_of_another_precision_is_saved_and_opened(dtype, standalone, tmp_path):
    torch.manual_seed(0)
    model = AutoDenseModel.from_parts("efficientnet-lite0", "dpt", decoder_args={"dim": 5, "width": 6}).to(dtype)
    image = torch.rand(1, 3, 40, 56)
    with torch.inference_mode():
        before = model(image).pixels
        opened = AutoDenseModel.from_pretrained(model.save_pretrained(tmp_path / "m", standalone=standalone))
        after = opened(image).pixels
        assert before.dtype == after.dtype == opened.dtype == dtype
        assert torch.equal(before, after)
        single = AutoDenseModel.from_pretrained(tmp_path / "m", dtype=torch.float32)(image).pixels
        assert single.dtype == torch.float32
        tolerance = {torch.bfloat16: 0.2, torch.float16: 0.02, torch.float64: 1e-4}[dtype]
        torch.testing.assert_close(single, before.float(), rtol=tolerance, atol=tolerance)
        # as a backbone by its name it is in single precision, as any other, and the outer model's digest knows it
        outer = AutoDenseModel.from_parts(f"model:{tmp_path / 'm'}", "upsample")
        assert outer.dtype == torch.float32
        again = AutoDenseModel.from_pretrained(outer.to(dtype).save_pretrained(tmp_path / "outer"))
        assert torch.equal(again(image).pixels, outer(image).pixels)


def test_a_model_of_two_precisions_is_refused(tmp_path):
    model = AutoDenseModel.from_parts("efficientnet-lite0", "dpt", decoder_args={"dim": 5, "width": 6})
    model.decoder.half()
    with pytest.raises(ConfigError, match=r"\(float16, float32\).* model.float\(\)"):
        model.save_pretrained(tmp_path / "m")


def generators():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("method", OPTIONS)
def test_loading_leaves_the_random_generators_alone(method, model, tmp_path):
    folder = save_context(InContext(model, method, **OPTIONS[method]).fit(*scene()), tmp_path / "c")
    before = generators()
    load_context(folder, model)
    assert generators() == before


def test_opening_a_model_leaves_the_random_generators_alone(tmp_path):
    dense = AutoDenseModel.from_parts("efficientnet-lite0", "dpt", decoder_args={"dim": 5, "width": 6})
    folder = dense.save_pretrained(tmp_path / "m")
    before = generators()
    AutoDenseModel.from_pretrained(folder)
    AutoDenseModel.from_parts(f"model:{folder}", "upsample")
    assert generators() == before


@posix
def test_saving_to_a_link_replaces_what_it_points_to(model, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "context", target_is_directory=True)
    for classes in (3, 2):
        image, mask = scene()
        save_context(InContext(model).fit(image, mask.clamp_max(classes - 1)), tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        for path in (tmp_path / "link", tmp_path / "disk" / "context"):
            assert len(load_context(path, model).classes_) == classes
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["context"]


# ---------------------------------------------------------------------- locks


def words_of_another(pid, host=None):
    space = os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else ""
    return {"pid": pid, "host": host or socket.gethostname(), "space": space, "since": time.time(), "token": "t"}


@posix
def test_a_lock_in_use_is_refused_by_name_and_a_dead_one_taken_over(model, tmp_path):
    context, lock = InContext(model).fit(*scene()), tmp_path / ".c.lock"
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    lock.write_text(json.dumps(words_of_another(process.pid)))
    with (
        pytest.raises(FileError, match=rf"in use by process {process.pid} on {socket.gethostname()} since \d{{4}}-"),
        locked(tmp_path / "c", "The folder c", wait=0.1),
    ):
        pass
    assert lock.exists()
    process.kill()
    assert save_context(context, tmp_path / "c").is_dir()  # a zombie, of which its parent has not heard, is dead too
    process.wait()
    lock.write_text(json.dumps(words_of_another(process.pid)))
    save_context(context, tmp_path / "c")
    assert not lock.exists()
    lock.write_text(json.dumps(words_of_another(process.pid, "elsewhere")))
    with pytest.raises(FileError, match=r"on elsewhere since .*remove .*\.c\.lock"), locked(tmp_path / "c", "c", 0.1):
        pass


SHARED = re.escape("cannot be seen from this machine or container; if there is no such process, remove its lock: rm ")


def test_the_lock_of_a_machine_that_died_says_what_to_do_and_loses_nothing(model, tmp_path, monkeypatch, capsys):
    """On a shared file system: killed there in mid-save, between the two renames, or while another waits for it."""
    monkeypatch.setattr(locked.__wrapped__, "__defaults__", (0.1,))
    image, mask = scene()
    place, lock = tmp_path / "c", tmp_path / ".c.lock"
    save_context(InContext(model).fit(image, mask), place)
    place.rename(tmp_path / ".c.previous")
    for other in ({"host": "elsewhere"}, {"space": "pid:[1]"}):  # another machine, another container of this one
        lock.write_text(json.dumps({**words_of_another(12345), **other}))
        for work in (
            lambda: save_context(InContext(model).fit(image, mask), place),
            lambda: load_context(place, model),
        ):
            with pytest.raises(FileError, match=rf"by process 12345 on .* since .*{SHARED}{re.escape(str(lock))}"):
                work()
        assert lock.exists()
        assert not place.exists()
    freed = threading.Timer(0.3, lock.unlink)
    freed.start()
    with locked(place, "c", wait=math.inf):  # as `train` with wait=true
        assert re.search(f"waiting for its end; .*{SHARED}", capsys.readouterr().err)
    freed.join()
    assert load_context(place, model).classes_ == [0, 1, 2]  # the old one, where the message was followed


@pytest.mark.parametrize(
    "record",
    [
        {"pid": 1, "since": 1e9},
        *({"pid": 1, "since": since, "host": "elsewhere"} for since in (1e300, math.nan, -1e18, "now")),
        {"pid": "one", "since": 1e9, "host": "elsewhere"},
        [],
    ],
)
def test_a_lock_with_a_record_that_says_nothing_is_refused_as_any(tmp_path, record):
    lock = tmp_path / ".c.lock"
    lock.write_text(json.dumps(record))
    with pytest.raises(FileError, match="process unknown on an unknown machine"), locked(tmp_path / "c", "c", 0.0):
        pass
    assert lock.exists()


def test_a_lock_keeps_threads_apart_and_is_waited_for(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(5):
            with locked(tmp_path / "c", "c"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.002)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20


@pytest.mark.parametrize("verb", ["evaluate", "pseudo-label", "cues"])
def test_a_second_start_into_a_folder_is_refused_by_name(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locked, "__defaults__", (0.1,))
    monkeypatch.setattr(locked.__wrapped__, "__defaults__", (0.1,))
    out, data = tmp_path / "out", camvid(tmp_path / "data", 2, 1)
    words = {
        "evaluate": ["rgb-xy", "--protocol", "camvid-linear-grid4-v2", "--data", str(data)],
        "pseudo-label": [str(data / "train/images"), "--model", "rgb-xy", "--segmenter", "slic(segments=4)", "side=48",
                         "classes=2"],
        "cues": [str(data / "train/images"), "--cues", "flow:dis", "--gaps", "1"],
    }[verb]  # fmt: skip
    slot = "process-0-of-1" if verb == "cues" else "process-0"
    with locked(out / slot, "it"):
        assert cli.main([verb, *words, "--out", str(out)]) == 2
    assert re.search(rf"{out} is in use by process {os.getpid()} on .* since \d{{4}}-", capsys.readouterr().err)
    assert cli.main([verb, *words, "--out", str(out)]) == 0


def test_a_second_training_is_refused_or_waits(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    install(tmp_path / "site", monkeypatch)
    out = tmp_path / "run"
    with (
        locked(out / "run", "it"),
        pytest.raises(FileError, match=rf"The run .*run is in use by process {os.getpid()} on .* since"),
    ):
        train(config(out, steps=1))
    free = threading.Event()

    def hold():
        with locked(out / "run", "it"):
            free.set()
            time.sleep(1)

    thread = threading.Thread(target=hold)
    thread.start()
    free.wait()
    began = time.monotonic()
    assert (train(config(out, steps=1, wait=True)) / "config.json").exists()
    assert time.monotonic() - began > 0.5
    assert "waiting for its end" in capsys.readouterr().err
    thread.join()
    assert not (out / ".run.lock").exists()


@posix
@pytest.mark.faults
@pytest.mark.parametrize("turn", range(5))
def test_of_two_trainings_started_at_once_one_is_refused(turn, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(settings(tmp_path / "run", steps=40, data={"samples": 7, "slow": 0.05})))
    paths = os.pathsep.join([*lay_out(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dense_ctx.cli", "train", str(file)]
    runs = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [run.communicate()[1] for run in runs]
    assert sorted(run.returncode == 0 for run in runs) == [False, True], errors
    loser, winner = sorted(runs, key=lambda run: run.returncode == 0)
    assert f"in use by process {winner.pid} on " in errors[runs.index(loser)]
    assert (tmp_path / "run" / "model" / MANIFEST).exists()


def fill_things(folder, number):
    folder.mkdir()
    for name in THINGS.files:
        (folder / name).write_text(str(number))
    write_json(folder / MANIFEST, {"sha256": {name: file_digest(folder / name) for name in THINGS.files}})


@posix
@pytest.mark.parametrize("work", ["locate", "read"])
def test_a_folder_that_is_being_replaced_is_never_missed(work, tmp_path, monkeypatch):
    """A folder has no name for an instant of each save: before and after every look at the disk that a reader takes."""
    place, previous, lock, real = tmp_path / "c", tmp_path / ".c.previous", tmp_path / ".c.lock", os.stat
    looks, cases, writer = 0, 0, json.dumps(words_of_another(os.getpid()))

    def text(name):
        return lambda part: (part / name).read_text()

    def look(*words, **options):
        nonlocal looks
        looks += 1
        if looks == first:
            lock.write_text(writer)
            place.rename(previous)
        elif looks == first + last:
            (tmp_path / "new").rename(place)
            previous.rename(tmp_path / "trash")
            lock.unlink()
        return real(*words, **options)

    for last in (1, 2, 4, 7, 12):
        for first in range(1, 1000):
            folder = tmp_path / f"{last}-{first}"
            folder.mkdir()
            place, previous, lock, tmp_path = folder / "c", folder / ".c.previous", folder / ".c.lock", folder
            fill_things(place, 1)
            fill_things(folder / "new", 2)
            looks = 0
            with monkeypatch.context() as patch:
                patch.setattr(os, "stat", look)
                if work == "locate":
                    assert local_folder(place) == place, f"missed where it was away from look {first} to {first + last}"
                else:
                    assert THINGS.read(place, text("a.json"), text("b.json")) in (("1", "1"), ("2", "2"))
            tmp_path = folder.parent
            cases += 1
            if looks < first:
                break
    print(f"{work}: {cases} interleavings")
    assert cases >= 10


@posix
def test_a_lock_that_changes_hands_is_waited_for(tmp_path):
    """Two writers that save again and again: the wait is for one holder, not for all that come first."""
    lock, end = tmp_path / ".c.lock", time.monotonic() + 0.5

    def hold():
        number = 0
        while time.monotonic() < end:  # without a gap, so that the other is never first
            number += 1
            write_json(lock, {**words_of_another(os.getpid()), "token": str(number)})
            time.sleep(0.05)
        lock.unlink()

    other = threading.Thread(target=hold)
    other.start()
    while not lock.exists():
        time.sleep(0.001)
    with locked(tmp_path / "c", "c", wait=0.2):
        assert time.monotonic() >= end
    other.join()


def test_a_folder_that_stays_missing_is_said_so_at_once(tmp_path):
    began = time.monotonic()
    assert local_folder(tmp_path / "c") is None
    with pytest.raises(FileError, match=r"has no a\.json"):
        THINGS.read(tmp_path / "c", lambda part: None, lambda part: None)
    assert time.monotonic() - began < 1
