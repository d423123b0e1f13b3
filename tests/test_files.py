"""Files appear whole or not at all, and what cannot be written is one kind of error."""

import errno
import os

import pytest

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
