"""docs/coverage.md: each row has a state, and what it points at is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/coverage.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="no source tree")
STATES = ("done", "differs", "not done", "open in the paper, ours", "taken to be")


def rows():
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if not line.startswith("| item")]


def test_each_row_has_a_state_and_what_shows_it():
    assert len(rows()) > 70
    for row in rows():
        assert len(row) == 3, row
        assert row[1].startswith(STATES), row
        if row[1].startswith("not done") and not row[2]:
            assert re.match(r"not done[:,] ", row[1]), row


def test_what_a_row_points_at_exists():
    paths = [path for row in rows() for path in re.findall(r"[\w./-]+\.(?:py|md|yaml|json|sh)\b", row[2])]
    assert len(paths) > 80
    assert [path for path in paths if not (ROOT / path).is_file()] == []
