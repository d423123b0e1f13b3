"""The built wheel: what is in it, and that it works where the source tree is not."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLUGINS = sorted(path.name for path in (ROOT / "plugins").glob("dense_ctx_*"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """A folder with the wheel installed; other packages come from this environment."""
    target = tmp_path_factory.mktemp("elsewhere")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


def python(site, code):
    environment = {**os.environ, "PYTHONPATH": str(site)}  # before the editable install's folders
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=site, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_contents(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"dense_ctx", *PLUGINS}
    assert "dense_ctx/py.typed" in names
    assert not [name for name in names if "/tests/" in name or "test_" in name or "__pycache__" in name]
    (points,) = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
    text = zipfile.ZipFile(wheel).read(points).decode()
    for package in PLUGINS:
        assert f" = {package}\n" in text + "\n", f"{package} has no entry point"
    assert "dense-ctx = dense_ctx.cli:main" in text
    assert any(name.endswith("/LICENSE") for name in names)


def test_installed_elsewhere_finds_its_plugins(site):
    code = (
        "import sys, dense_ctx; assert 'torch' not in sys.modules; r = dense_ctx.registry();"
        "print(dense_ctx.__file__, len(r.failures), len(r.names('backbone')), len(r.names('decoder')))"
    )
    file, failures, backbones, decoders = python(site, code)
    assert Path(file).is_relative_to(site)
    assert failures == "0"
    assert int(backbones) > 0
    assert int(decoders) > 0


def test_installed_elsewhere_opens_the_demo_model(site):
    code = (
        "import torch, dense_ctx\n"
        "model = dense_ctx.AutoDenseModel.from_parts('efficientnet-lite0', 'upsample')\n"
        "shape = model(torch.rand(1, 3, 50, 70)).pixels.shape\n"
        "print(dense_ctx.__file__, model.backbone.source is not None, *shape)"
    )
    file, pretrained, *shape = python(site, code)
    assert Path(file).is_relative_to(site)
    assert pretrained == "True"
    assert shape[0] == "1"
    assert shape[2:] == ["50", "70"]
