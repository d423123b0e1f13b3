"""What `python -m build` makes of the source tree, installed where the tree is not."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def build(kind, out, source=ROOT):
    """The path of the `wheel` or `sdist` of a source tree."""
    arguments = [f"--{kind}", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run([sys.executable, "-m", "build", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return path


def install(wheel, target):
    """Install a wheel without its dependencies into a folder."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


def python(site, code, variables=None, flags=()):
    """What a piece of code prints in this environment, where the packages in `site` come first."""
    environment = {**os.environ, **(variables or {}), "PYTHONPATH": str(site)}  # before the editable install's folders
    command = [sys.executable, *flags, "-c", code]
    done = subprocess.run(command, env=environment, cwd=site, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
