"""A session's folder: what survives a kill, a full disk, a second session, a changed image; and what is exported."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from dense_ctx_predict import LabelClass
from dense_ctx_session import Session
from PIL import Image

from dense_ctx import AutoDenseModel, registry
from dense_ctx.errors import CheckpointError, ConfigError, FileError, InputError
from dense_ctx.testing import tiny_model

MODEL = "rgb-xy+upsample"
SIZE = (48, 80)


def picture(seed=0):
    image = np.random.default_rng(seed).integers(0, 80, (*SIZE, 3), dtype=np.uint8)
    image[12:36, 20:44] = (220, 30, 20)
    return image


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "day1").mkdir(parents=True)
    for i in range(3):
        Image.fromarray(picture(i)).save(folder / ("day1" if i else ".") / f"{i}.png")
    return folder


def draw(session, item=0):
    session.stroke(item, 0, [(4, 4), (70, 5)], 3)
    session.stroke(item, 1, [(26, 18), (38, 30)], 3)


def same(one, other):
    assert one.items == other.items
    assert one.classes == other.classes
    for item in range(len(one.items)):
        assert one.status(item) == other.status(item)
        mine, theirs = one.strokes(item), other.strokes(item)
        assert [(s.id, s.class_id, s.radius) for s in mine] == [(s.id, s.class_id, s.radius) for s in theirs]
        assert all((a.points == b.points).all() for a, b in zip(mine, theirs, strict=True))
        assert (one.annotation(item) == other.annotation(item)).all()
        np.testing.assert_allclose(one.probabilities(item), other.probabilities(item), atol=1e-5)


def test_a_session_goes_on_where_it_was(photos, tmp_path):
    session = Session(
        MODEL, photos, method="ridge(penalty=0.01)", classes=["background", LabelClass(7, "box", (9, 8, 7))]
    )
    assert [item.name for item in session.items] == ["0.png", "day1/1.png", "day1/2.png"]
    session.stroke(0, 0, [(4, 4), (70, 5)], 3)
    session.save(tmp_path / "work")
    session.stroke(0, 7, [(26, 18), (38, 30)], 3)
    session.mask_label(2, np.where(np.arange(80) < 10, 0, 255)[None].repeat(48, 0))
    session.stroke(1, 0, [(4, 4)], 2)
    session.undo()
    session.stroke(1, None, [(4, 4)], 2)
    session.add_class("cup")
    session.rename_class(0, "rest")
    session.mark(1, "accepted")
    session.close()
    with Session.open(tmp_path / "work") as again:
        same(session, again)
        assert str(again.method) == "ridge(penalty=0.01)"
        again.undo()
        assert [c.name for c in again.classes] == ["background", "box", "cup"]
        again.remove_class(7)
        again.clear(2)
        again.save(tmp_path / "work")  # a new snapshot, an empty journal
        assert (tmp_path / "work" / "journal.jsonl").read_text().count("\n") == 1
        again.stroke(0, 1, [(30, 20)], 3)
    with Session.open(tmp_path / "work") as third:
        same(again, third)


def test_a_session_moves_with_its_photos_and_keeps_images_of_memory(photos, tmp_path):
    with Session(MODEL, photos, classes=["background", "box"]) as session:
        draw(session)
        before = session.labels(0)
        session.save(tmp_path / "work")
    home = tmp_path / "elsewhere"
    home.mkdir()
    shutil.move(photos, home / "photos")
    shutil.move(tmp_path / "work", home / "work")
    with Session.open(home / "work") as again:
        assert (again.labels(0) == before).all()
    with Session(MODEL, [picture(0), picture(1)], classes=["background", "box"]) as session:
        draw(session)
        session.save(tmp_path / "memory")
    with Session.open(tmp_path / "memory") as again:
        same(session, again)


def test_the_model_is_that_of_the_session(photos, tmp_path):
    model = tiny_model()
    with Session(model, photos, classes=["background", "box"]) as session:
        draw(session)
        session.save(tmp_path / "work")
    with pytest.raises(ConfigError, match="give it, model="):
        Session.open(tmp_path / "work")
    other = tiny_model()
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    with pytest.raises(CheckpointError, match="session of another model: weights was"):
        Session.open(tmp_path / "work", other)
    with Session.open(tmp_path / "work", tiny_model()) as again:
        same(session, again)
    dense = AutoDenseModel.from_parts("rgb-xy", "upsample")
    with Session(dense, photos) as session:
        session.save(tmp_path / "named")
    with Session.open(tmp_path / "named") as again:  # from the copy in the folder
        assert again.model.dim == dense.dim


def test_a_file_says_nothing_that_its_user_did_not(photos, tmp_path):
    """A folder from elsewhere fetches no model, and what it holds is checked as if it were drawn."""
    with Session(MODEL, photos, classes=["background", "box"]) as session:
        draw(session)
        session.save(tmp_path / "work")
    file = tmp_path / "work" / "session.json"
    good = json.loads(file.read_text())

    def opened(**changes):
        file.write_text(json.dumps({**good, **changes}))
        return Session.open(tmp_path / "work")

    with pytest.raises(ConfigError, match="names a model 'someone/model', which is not registered"):
        opened(open="someone/model")
    with pytest.raises(ConfigError, match="does not take penalty='much' from a file"):
        opened(method="ridge(penalty=much)")
    file.write_text(json.dumps({**good, "method": "ridge(penalty=much)"}))
    with Session.open(tmp_path / "work", method="knn") as again:
        assert again.method.name == "knn"
        assert again.labels(0).shape == SIZE
    stroke = good["drawings"]["0"][0]
    for change in (
        {"class": 300}, {"class": "x"}, {"points": [[float("nan"), 1]]}, {"points": "x"}, {"radius": -1},
        {"points": [[1e9, 1]]}, {"radius": 1e9}, {"mask": "AAAA"}, {"mask": "eJxjAAAAAQAB"}, {"id": None},
    ):  # fmt: skip
        with pytest.raises(CheckpointError):
            opened(drawings={"0": [{**stroke, **change}]})
    for changes in (
        {"drawings": {"9": [stroke]}}, {"drawings": [1]}, {"classes": [{"id": 999, "name": "a", "colour": [1, 2, 3]}]},
        {"classes": [{"id": 1, "name": "a", "colour": [1, 2, 300]}]}, {"marks": 3}, {"model": None}, {"next_id": "x"},
    ):  # fmt: skip
        with pytest.raises(CheckpointError):
            opened(**changes)
    opened().close()


def test_two_sessions_do_not_share_a_folder(photos, tmp_path):
    with Session(MODEL, photos, classes=["a", "b"]) as session:
        session.save(tmp_path / "work")
        with pytest.raises(FileError, match="in use by process"):
            Session.open(tmp_path / "work")
        with Session(MODEL, photos) as second, pytest.raises(FileError, match="in use by process"):
            second.save(tmp_path / "work")
        session.save(tmp_path / "other")  # which frees the first
        Session.open(tmp_path / "work").close()
    Session.open(tmp_path / "other").close()
    with Session(MODEL, photos) as second:
        with pytest.raises(FileError, match="holds no session"):
            second.save(photos)
        with pytest.raises(FileError, match="another session"):
            second.save(tmp_path / "work")
    with pytest.raises(FileError, match="holds no session"):
        Session.open(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


KILLED = """
import sys
from dense_ctx_session import Session
session = Session("rgb-xy+upsample", sys.argv[1], classes=["background", "box"])
session.save(sys.argv[2])
for number in range(100_000):
    session.stroke(0, number % 2, [(4 + number % 70, 4 + number % 31)], 2)
    print(number + 1, flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.13])
def test_a_kill_loses_no_stroke_that_was_answered(photos, tmp_path, delay):
    work = tmp_path / "work"
    process = subprocess.Popen([sys.executable, "-c", KILLED, photos, work], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "1\n"
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split()
    process.wait()
    answered = int(rest[-1]) if rest else 1
    with Session.open(work) as session:
        assert answered <= len(session.strokes(0)) <= answered + 1
        assert session.strokes(0)[3].points.tolist() == [[7, 7]] if answered > 3 else True
        session.labels(0)


def test_a_torn_line_is_dropped_and_damage_is_not(photos, tmp_path):
    work = tmp_path / "work"
    with Session(MODEL, photos, classes=["background", "box"]) as session:
        session.save(work)
        draw(session)
    journal = work / "journal.jsonl"
    whole = journal.read_bytes()
    for cut in (1, 20, len(whole.splitlines(keepends=True)[-1]) - 1):
        journal.write_bytes(whole[:-cut])
        with Session.open(work) as session:
            assert [s.class_id for s in session.strokes(0)] == [0]
            session.stroke(0, 1, [(26, 18)], 3)
        with Session.open(work) as session:
            assert [s.class_id for s in session.strokes(0)] == [0, 1]
    journal.write_bytes(whole.replace(b"70.0", b"71.0", 1))
    with pytest.raises(CheckpointError, match="damaged in line 2"):
        Session.open(work)
    journal.write_bytes(whole)
    (work / "session.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(CheckpointError, match="another version"):
        Session.open(work)


def test_a_kill_between_snapshot_and_journal_does_nothing_twice(photos, tmp_path):
    work = tmp_path / "work"
    with Session(MODEL, photos, classes=["background", "box"]) as session:
        session.save(work)
        draw(session)
        old = (work / "journal.jsonl").read_bytes()
        session.save(work)
    (work / "journal.jsonl").write_bytes(old)  # as if it had not been replaced
    with Session.open(work) as again:
        assert len(again.strokes(0)) == 2


def test_a_first_save_that_was_killed_is_begun_again(tmp_path, monkeypatch):
    work = tmp_path / "work"

    def kill(*_args, **_options):
        raise KeyboardInterrupt

    with Session(MODEL, [picture(0), picture(1)], classes=["background", "box"]) as session, monkeypatch.context() as p:
        p.setattr("dense_ctx_session.journal.write_json", kill)
        with pytest.raises(KeyboardInterrupt):
            session.save(work)
    assert len(list((work / "images").iterdir())) == 2  # what a real kill leaves
    with Session(MODEL, [picture(2)], classes=["background", "box"]) as session:
        session.save(work)
        draw(session)
    assert len(list((work / "images").iterdir())) == 1
    with Session.open(work) as again:
        assert len(again.strokes(0)) == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "images").mkdir()
    with Session(MODEL, [picture(2)]) as session, pytest.raises(FileError, match="exists and holds no session"):
        session.save(tmp_path / "other")


def test_a_snapshot_without_room_for_its_journal_loses_nothing(photos, tmp_path, monkeypatch):
    work = tmp_path / "work"
    with Session(MODEL, photos, classes=["background", "box"]) as session:
        session.save(work)
        session.stroke(0, 0, [(4, 4)], 2)

        def full(*_args, **_options):
            raise FileError("Cannot write: no space left")

        with monkeypatch.context() as patch:
            patch.setattr("dense_ctx_session.journal.write_text", full)
            with pytest.raises(FileError, match="no space left"):
                session.save(work)  # the snapshot is there, its journal is not
            with pytest.raises(FileError, match=r"Nothing is lost: 1 change\(s\) are in memory"):
                session.stroke(0, 1, [(26, 18)], 3)
        session.stroke(0, 1, [(38, 30)], 3)
    with Session.open(work) as again:
        assert [s.class_id for s in again.strokes(0)] == [0, 1, 1]


FULL = """
import resource, signal, sys
from dense_ctx.errors import FileError
from dense_ctx_session import Session
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
session = Session("rgb-xy+upsample", sys.argv[1], classes=["background", "box"])
session.save(sys.argv[2])
strokes = 0
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limit[1]))  # a file that may not grow: as a full disk
try:
    for number in range(1000):
        strokes += 1
        session.stroke(0, number % 2, [(4 + number % 70, 5)], 2)
    raise SystemExit("no error")
except FileError as error:
    print(error)
try:
    strokes += 1
    session.stroke(0, 1, [(26, 18)], 2)
except FileError as error:
    assert "2 change(s) are in memory" in str(error), error
assert len(session.strokes(0)) == strokes
assert (session.labels(0) != 255).any()
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
session.mark(0, "accepted")
session.close()
print(strokes)
"""


@pytest.mark.faults
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no such limit here")
def test_a_full_disk_loses_nothing(photos, tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, photos, tmp_path / "work"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    message, strokes = done.stdout.splitlines()
    assert "Nothing is lost: 1 change(s) are in memory" in message
    with Session.open(tmp_path / "work") as session:
        assert len(session.strokes(0)) == int(strokes)
        assert session.status(0) == "accepted"


def test_a_changed_image_is_refused_by_name(photos, tmp_path):
    file = photos / "0.png"
    session = Session(MODEL, photos, classes=["background", "box"])
    session.save(tmp_path / "work")
    draw(session)
    before = file.read_bytes()
    os.utime(file)
    assert session.picture(0).shape == (*SIZE, 3)  # touched, and the same
    Image.fromarray(picture(9)).save(file)
    with pytest.raises(FileError, match=r"0\.png has changed on disk"):
        session.picture(0)
    session.close()
    with pytest.raises(FileError, match=r"0\.png has changed since it was annotated"):
        Session.open(tmp_path / "work")
    file.unlink()
    with pytest.raises(FileError, match=r"0\.png, which is not there any more"):
        Session.open(tmp_path / "work")
    file.write_bytes(before)
    Session.open(tmp_path / "work").close()
    session = Session(MODEL, photos, classes=["background", "box"])
    Image.fromarray(picture(9)[:40]).save(file)
    with pytest.raises(FileError, match=r"0\.png"):
        session.labels(0)


def test_sources_that_are_none(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, frames, error, words in (
        (tmp_path / "empty", False, FileError, "hold no image"),
        (tmp_path / "empty", True, FileError, "holds no frames"),
        (tmp_path / "none.png", False, FileError, "No image at"),
        (tmp_path / "none.mp4", False, FileError, "No video at"),
        ([], False, InputError, "empty"),
        ([photos / "0.png", picture()], False, InputError, "one kind"),
        (photos / "0.png", True, InputError, "frames=True"),
        (3, False, InputError, "An image is"),
    ):
        with pytest.raises(error, match=words):
            Session(MODEL, source, frames=frames)
    (photos / "bad.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"1 image\(s\) are left out: .*bad\.png"):
        assert len(Session(MODEL, photos).items) == 3
    with pytest.raises(FileError, match=r"bad\.png"):
        Session(MODEL, [photos / "bad.png"])


def test_sizes_are_upright_and_an_image_is_read_by_its_file(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture()).save(tmp_path / "turned.jpg", exif=exif)
    with Session(MODEL, tmp_path / "turned.jpg") as session:
        assert (session.items[0].name, session.items[0].width, session.items[0].height) == ("turned.jpg", 48, 80)
        assert session.picture(0).shape == (80, 48, 3)


def test_features_are_computed_once_and_kept_on_disk(photos, tmp_path):
    cache = tmp_path / "cache"
    with Session(MODEL, photos, classes=["background", "box"], cache_dir=cache) as session:
        draw(session)
        labels = [session.labels(item) for item in range(3)]
        assert session._store.computed == 3
        [session.labels(item) for item in range(3)]
        assert session._store.computed == 3
    with Session(MODEL, photos, classes=["background", "box"], cache_dir=cache) as again:
        draw(again)
        assert all((again.labels(item) == labels[item]).all() for item in range(3))
        assert again._store.computed == 0
    shard = max(cache.rglob("*.safetensors"), key=lambda path: path.stat().st_mtime)
    shard.write_bytes(shard.read_bytes()[:-3] + b"abc")
    with Session(MODEL, photos, cache_dir=cache) as again:
        [again.labels(item) for item in range(3)]
        assert again._store.computed == 1  # the damaged one
    with Session("rgb-xy+upsample(normalize=false)", photos, cache_dir=cache) as other:
        other.labels(0)
        assert other._store.computed == 1  # another model


def test_features_stay_within_the_budget(photos):
    with Session(MODEL, photos, classes=["background", "box"]) as session:
        draw(session)
        labels = [session.labels(item) for item in range(3)]
        bytes_each = session._store.bytes // 3
    with Session(MODEL, photos, classes=["background", "box"], max_memory=4 * bytes_each) as small:
        draw(small)
        for item in (0, 1, 2, 0):
            assert (small.labels(item) == labels[item]).all()
            assert small._store.bytes <= 2.25 * bytes_each
        assert small._store.computed == 4  # the first one went
    with pytest.raises(InputError, match="max_memory"):
        Session(MODEL, photos, max_memory="much")


def test_small_maps_have_a_budget_too(photos):
    with Session(MODEL, photos, classes=["background", "box"], max_memory=10_000) as session:
        draw(session)
        [session.labels(item) for item in range(3)]
        assert list(session._store.samples) == [2]
        assert session.next_item() == 2  # the only one that is known of


def test_features_on_disk_stay_within_their_budget(photos, tmp_path):
    cache = tmp_path / "cache"

    def files():
        return {path.name: path.stat().st_size for path in cache.rglob("*.safetensors")}

    with Session(MODEL, photos, cache_dir=cache) as session:
        session.labels(0)
        (first,) = files()
        size = files()[first]
        time.sleep(0.02)
        session.labels(1)
        assert len(files()) == 2
    time.sleep(0.02)
    with Session(MODEL, photos, cache_dir=cache, max_disk=int(2.5 * size)) as session:
        session.labels(0)  # read, so the other one is the oldest now
        time.sleep(0.02)
        session.labels(2)
        assert len(files()) == 2
        assert first in files()
        assert session._store.computed == 1


def test_a_full_disk_of_features_is_told_and_survived(photos, tmp_path, monkeypatch):
    with Session(MODEL, photos, classes=["background", "box"], cache_dir=tmp_path / "cache") as session:
        draw(session)

        def fail(*_args, **_options):
            raise FileError("Cannot write: no space left")

        monkeypatch.setattr(session._store._disk._cache, "write", fail)
        with pytest.warns(UserWarning, match="in memory alone from here on"):
            session.labels(0)
        assert session.labels(1).shape == SIZE


def test_prefetch_computes_in_the_background(photos):
    with Session(MODEL, photos) as session:
        session.prefetch(2)
        session.prefetch(1)
        deadline = time.monotonic() + 60
        while session._store.computed < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert session._store.computed == 2
        session.labels(1)
        session.labels(2)
        assert session._store.computed == 2


@pytest.mark.parametrize("form", ["png", "coco", "labelme(shape=mask)", "cvat"])
def test_exported_labels_read_back(photos, tmp_path, form):
    with Session(MODEL, photos, classes=["background", LabelClass(9, "box", (1, 2, 3))]) as session:
        with pytest.raises(InputError, match="nothing is annotated"):
            session.export(tmp_path / "out", form)
        session.stroke(0, 0, [(4, 4), (70, 5)], 3)
        session.stroke(0, 9, [(26, 18), (38, 30)], 3)
        session.mark(1, "rejected")
        path = session.export(tmp_path / "out", form)
        annotations = registry().create("label-format", "auto").open(path, images=photos)
        assert sorted(annotations.images) == ["0.png", "day1/2.png"]
        for annotation in annotations:
            item = [i.name for i in session.items].index(annotation.image)
            ids = np.array([0, 9], dtype=np.uint8)
            assert (ids[annotation.labels] == session.labels(item)).all()
        one = session.export(tmp_path / "one", form, items=[1])
        assert list(registry().create("label-format", "auto").open(one, images=photos).images) == ["day1/1.png"]


@pytest.mark.slow
def test_the_example_writes_masks_of_a_folder(photos, tmp_path):
    script = Path(__file__).parents[1] / "examples" / "strokes.py"
    done = subprocess.run([sys.executable, script, photos, tmp_path / "masks"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "annotate next: day1/" in done.stdout
    files = sorted(path.relative_to(tmp_path / "masks").as_posix() for path in (tmp_path / "masks").rglob("*.png"))
    assert files == ["0.png", "day1/1.png", "day1/2.png"]
    mask = np.asarray(Image.open(tmp_path / "masks" / "0.png"))
    assert mask[24, 40] == 1
    assert mask[2, 40] == 0
