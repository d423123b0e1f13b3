"""Progress on stderr: a bar on a terminal, lines in a log file, nothing where there is nothing to do."""

import io
import sys

import pytest

from dense_ctx import progress as module
from dense_ctx.commands.arguments import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(params=[io.StringIO, Terminal])
def stderr(request, monkeypatch):
    monkeypatch.setattr(sys, "stderr", request.param())
    return sys.stderr


def test_short_work_and_nothing_show_no_bar(stderr):
    """A log file had "score: 0image [00:00, ?image/s]score: 0image ..." on one line."""
    assert list(progress([], 0, "score")) == []
    assert list(progress(range(3), 3, "score")) == [0, 1, 2]
    with progress(None, 0, "features") as bar:
        bar.update(2)
    assert stderr.getvalue() == ""


def test_a_log_file_gets_whole_lines(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(module, "PERIOD", 0.0)
    assert list(progress(range(3), 3, "frames")) == [0, 1, 2]
    lines = sys.stderr.getvalue().splitlines()
    assert lines
    assert all(line.startswith("frames: ") for line in lines)
    assert "\r" not in sys.stderr.getvalue()
    assert "3/3" in lines[-1]
    assert "frame/s" in lines[-1]


def test_a_terminal_gets_one_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(module, "MOMENT", 0.0)
    assert list(progress(range(3), 3, "score")) == [0, 1, 2]
    assert "3/3" in sys.stderr.getvalue().rpartition("\r")[2]
