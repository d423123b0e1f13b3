"""`pytest -m hub` itself: run on a hub on loopback that serves small networks in the layout of the published ones."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hubserver import serving

TESTS = Path(__file__).parent / "test_hub_real.py"


def hub_suite(environment, *words):
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-m", "hub", str(TESTS), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=TESTS.parent.parent)
    return done.returncode, done.stdout + done.stderr


def offline_free():
    return {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}


@pytest.mark.slow
def test_the_suite_passes_on_stand_ins_and_fails_where_weights_differ(tmp_path):
    import tiny_hub

    with serving() as (hub, address):
        tiny_hub.serve(hub, address, tmp_path)
        path = os.pathsep.join(filter(None, [str(tmp_path / "packages"), os.environ.get("PYTHONPATH")]))
        environment = {
            **offline_free(), "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1",
            "TORCH_HOME": str(tmp_path / "torch"), "DENSE_CTX_TEST_HUB": str(tmp_path / "hub.json"), "PYTHONPATH": path,
            "DENSE_CTX_TEST_DIP_CHECKPOINT": str(tmp_path / "checkpoint-4.pth"),
        }  # fmt: skip
        status, output = hub_suite(environment)
        assert status == 0, output
        assert re.search(r"^\d+ passed", output, re.MULTILINE), output
        assert "skipped" not in output, output
        changed = tiny_hub.PAIRS["clip-b16"][0]
        theirs = tiny_hub.transformers.CLIPVisionModel(
            tiny_hub.transformers.CLIPVisionConfig(**tiny_hub.PAIRS["clip-b16"][2])
        )
        hub.commit(changed, "main", tiny_hub.files_of(theirs))
        hub.gated.add(tiny_hub.PAIRS["dinov3-s16"][0])
        environment["HF_HOME"] = str(tmp_path / "another")
        status, output = hub_suite(environment, "-k", "transformers and (clip or dinov3)")
        assert status == 1, output
        assert "1 failed, 1 skipped" in output
        assert "terms to be accepted on the repository's page" in output


def test_without_a_network_the_suite_says_why_it_skips():
    status, output = hub_suite({**offline_free(), "HF_HUB_OFFLINE": "1"})
    assert status == 0, output
    assert re.search(r"^\d+ skipped", output, re.MULTILINE), output
    assert "HF_HUB_OFFLINE is set" in output
    assert "passed" not in output
