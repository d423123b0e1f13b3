"""A 4000 x 3000 photo within 6 GB of process memory (minutes: -m slow)."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("case", ["segment", "write"])
def test_a_large_photo_fits(case):
    pytest.importorskip("resource")  # Windows has no such count
    code = f"import memory; print(memory.{case}(3000, 4000, '2GB')[0])"
    run = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    assert float(run.stdout.split()[-1]) < 6000
