"""Files appear whole or not at all, and what cannot be written is one kind of error."""

import errno
import os
import signal
import time
from pathlib import Path

import pytest
from artefacts import ended, forked

from dense_ctx import partial_files
from dense_ctx.errors import FileError, InputError
from dense_ctx.files import new_file, write_text


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with new_file(path) as partial:
        partial.write_text("whole", encoding="utf-8")
        assert partial.suffix == ".txt"  # writers choose their format by it
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "whole"
    write_text(path, "Ü\n")
    assert path.read_bytes() == "Ü\n".encode()
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize(
    ("fault", "expected", "message"),
    [
        (OSError("no room"), FileError, "Cannot write the map .*a.txt: no room. Go on"),
        (KeyError("odd"), FileError, "Cannot write the map .*a.txt: 'odd'. Go on"),  # named as a fault below
        (InputError("too few"), InputError, "^too few$"),
        (FileError("the other file"), FileError, "^the other file$"),
        (ZeroDivisionError("bug"), ZeroDivisionError, "^bug$"),
        (KeyboardInterrupt("now"), KeyboardInterrupt, "^now$"),
    ],
)
def test_what_fails_leaves_what_was_there(tmp_path, fault, expected, message):
    path = tmp_path / "a.txt"
    write_text(path, "before")

    def work():
        with new_file(path, f"the map {path}", ". Go on", faults=(KeyError,)) as partial:
            partial.write_text("half", encoding="utf-8")
            raise fault

    with pytest.raises(expected, match=message):
        work()
    assert path.read_text(encoding="utf-8") == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_and_a_place_that_is_none(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"Cannot write .*inside"):
        write_text(tmp_path / "file" / "inside", "text")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"a\.txt: \[Errno 28\] No space left"):
        write_text(tmp_path / "a.txt", "text")
    assert os.listdir(tmp_path) == ["file"]


def test_two_writers_may_share_a_name(tmp_path):
    path = tmp_path / "a.txt"
    with new_file(path) as mine:
        mine.write_text("mine", encoding="utf-8")
        write_text(path, "the other's")
        assert path.read_text(encoding="utf-8") == "the other's"
    assert path.read_text(encoding="utf-8") == "mine"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_stays_and_the_file_it_points_to_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "a.txt").symlink_to(tmp_path / "disk" / "b.txt")
    for text in ("first", "second"):
        write_text(tmp_path / "a.txt", text)
        assert (tmp_path / "disk" / "b.txt").read_text(encoding="utf-8") == text
    assert (tmp_path / "a.txt").is_symlink()


def test_nothing_written_is_an_error_and_no_file(tmp_path):
    with pytest.raises(FileError, match=r"Cannot write .*a\.txt"), new_file(tmp_path / "a.txt"):
        pass
    assert not os.listdir(tmp_path)


def half_written(path, then):
    """A process in the middle of writing `path`, and its partial file; `then` is what it does next."""

    def work():
        with new_file(path) as partial:
            partial.write_text("the child's", encoding="utf-8")
            then()

    pid = forked(work)
    end = time.monotonic() + 20
    while not (left := list(path.parent.glob(f".*.{pid}-*.partial*"))):
        assert time.monotonic() < end
        time.sleep(0.01)
    return pid, left[0]


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


@forks
@pytest.mark.parametrize("name", ["a.txt", "no suffix", "odd [name].*.json"])
def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path, name):
    path = tmp_path / name
    pid, left = half_written(path, lambda: time.sleep(60))
    os.kill(pid, signal.SIGKILL)
    assert ended(pid) == -9
    assert os.listdir(tmp_path) == [left.name]
    write_text(path, "whole")
    assert os.listdir(tmp_path) == [name]


@forks
def test_what_may_still_be_written_stays(tmp_path):
    path, go = tmp_path / "a.txt", tmp_path / "go"

    def wait():
        while not go.exists():
            time.sleep(0.01)

    pid, partial = half_written(path, wait)
    dead, left = half_written(path, lambda: time.sleep(60))
    os.kill(dead, signal.SIGKILL)
    assert ended(dead) == -9
    scope = partial_files._scope()
    others = [
        left.name.replace(scope, "0" * 8),
        f".a.{dead}-{scope}.partial.txt",
        f"a.{dead}-{scope}-{'0' * 8}.partial",
    ]
    for other in others:  # of another machine; of no process; not hidden
        (tmp_path / other).touch()
    write_text(path, "mine")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, partial.name, "a.txt"])
    go.touch()
    assert ended(pid) == 0
    assert path.read_text(encoding="utf-8") == "the child's"


def test_looking_for_what_was_left_takes_little_of_the_time(tmp_path, monkeypatch):
    scans, whole = [], Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: scans.append(folder) or time.sleep(0.05) or whole(folder))
    for number in range(20):
        write_text(tmp_path / f"{number}.txt", "text", sync=False)
    assert scans == [tmp_path]  # 5 s go by until the next one
