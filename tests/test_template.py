"""The plugin template is installed by pip, listed, and its own tests pass, two training steps among them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

TEMPLATE = Path(__file__).parent.parent / "examples" / "plugin_template"


def test_template_builds_installs_and_trains(tmp_path):
    source = shutil.copytree(TEMPLATE, tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    options = ["--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*pip, *options, str(source)], check=True)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "DENSE_CTX_STRICT_PLUGINS": "0"}

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        return done.returncode, done.stdout + done.stderr

    _, listed = run("dense_ctx.cli", "plugins")
    for row in ("template-conv", "template-colours", "template-edges"):
        line = next(line for line in listed.splitlines() if f" {row} " in line)
        assert line.split()[-2:] == ["dense-ctx-template", "0.1.0"]
    status, output = run("pytest", "-q", "-p", "no:cacheprovider", str(source / "tests"))
    assert status == 0, output
    assert "4 passed" in output
