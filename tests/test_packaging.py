"""The built wheel: what is in it, and that it works where the source tree is not."""

import json
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from wheel_site import ROOT, build, install, python

from dense_ctx import registry

PLUGINS = sorted(path.name for path in (ROOT / "plugins").glob("dense_ctx_*"))
PROTOCOLS = sorted(path.stem for path in (ROOT / "plugins").glob("*/protocols/*.yaml"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """A folder with the wheel installed; other packages come from this environment."""
    return install(wheel, tmp_path_factory.mktemp("elsewhere"))


def test_contents(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"dense_ctx", *PLUGINS}
    assert "dense_ctx/py.typed" in names
    assert {f"dense_ctx_explore/page/{file}" for file in ("index.html", "main.js", "style.css", "icon.svg")} <= set(
        names
    )
    assert not [name for name in names if "/tests/" in name or "test_" in name or "__pycache__" in name]
    (points,) = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
    text = zipfile.ZipFile(wheel).read(points).decode()
    for package in {*PLUGINS} - {"dense_ctx_runtime"}:  # what programs without torch import; it registers nothing
        assert f" = {package}\n" in text + "\n", f"{package} has no entry point"
    assert "dense-ctx = dense_ctx.cli:main" in text
    assert {"LICENSE", "NOTICE"} <= {Path(name).name for name in names if "/licenses/" in name}
    assert not [name for name in names if name.endswith((".safetensors", ".pth", ".bin", ".npz", ".mp4", ".jpg"))]


def test_installed_elsewhere_has_every_part(site):
    """Every kind has the parts that this environment's own registry has: the source tree's."""
    code = (
        "import json, sys, dense_ctx; assert 'torch' not in sys.modules; r = dense_ctx.registry();"
        "print(json.dumps([dense_ctx.__file__, len(r.failures), {kind: r.names(kind) for kind in r.kinds}]))"
    )
    environment = {"DENSE_CTX_SKIP_PLUGINS": "all"}  # plugins of others that happen to be installed
    file, failures, parts = json.loads(python(site, code, environment))
    assert Path(file).is_relative_to(site)
    assert failures == 0
    assert parts["protocol"] == PROTOCOLS
    assert parts["paper"] == ["dip", "hummingbird", "lila", "maxa"]
    own = [entry for entry in registry().entries() if entry.owner.distribution == "dense-ctx"]
    assert parts == {kind: [entry.name for entry in own if entry.kind == kind] for kind in parts}
    assert {entry.kind for entry in own} <= set(parts)
    assert all(parts.values()), "a kind without parts"


def test_installed_elsewhere_reads_its_files(site):
    code = (
        "import dense_ctx, json\n"
        "from dense_ctx.evaluate.protocol import load_protocol, names\n"
        "r = dense_ctx.registry()\n"
        "assert [load_protocol(name).id for name in names()] == r.names('protocol')\n"
        "print(json.dumps([len(names()), *(len(json.loads(r.file('paper', name).read_text('utf-8'))) > 0\n"
        "      for name in r.names('paper'))]))"
    )
    assert json.loads(python(site, code, {"DENSE_CTX_SKIP_PLUGINS": "all"})) == [len(PROTOCOLS), True, True, True, True]


def test_installed_elsewhere_opens_the_demo_model(site):
    code = (
        "import torch, dense_ctx\n"
        "model = dense_ctx.AutoDenseModel.from_parts('efficientnet-lite0', 'upsample')\n"
        "shape = model(torch.rand(1, 3, 50, 70)).pixels.shape\n"
        "print(dense_ctx.__file__, model.backbone.source is not None, *shape)"
    )
    file, pretrained, *shape = python(site, code).split()
    assert Path(file).is_relative_to(site)
    assert pretrained == "True"
    assert shape[0] == "1"
    assert shape[2:] == ["50", "70"]


def test_installed_elsewhere_says_where_the_model_of_the_source_tree_is(site):
    code = (
        "import dense_ctx\n"
        "try: dense_ctx.AutoDenseModel.from_pretrained('lila-lite0')\n"
        "except dense_ctx.DenseCtxError as error: print(error)"
    )
    message = python(site, code)
    assert message.startswith("The model 'lila-lite0' has no published weights. It was trained on clips whose terms")
    assert "dense-ctx train lila-lite0 data=FOLDER_OF_CLIPS" in message
    assert message.count("\n") == 1


def test_the_oldest_releases_are_pinned():
    """.ci/minimum.txt pins, of each package that pyproject.toml bounds, the release at the bound."""
    bounds = {}
    for line in requires("dense-ctx"):
        requirement = Requirement(line)
        for bound in (one for one in requirement.specifier if one.operator == ">="):
            bounds[canonicalize_name(requirement.name)] = bound.version
    lines = (ROOT / ".ci" / "minimum.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    tools = {
        "ruff",
        "mypy",
        "import-linter",
        "ptlflow",
        "napari",
        "reuse",
        "bandit",
        "mkdocs-material",
        "mkdocstrings",
    }  # no part of the tests' environment
    assert set(pins) == set(bounds) - tools
    for name, version in pins.items():
        assert f"{version}.".startswith(f"{bounds[name]}."), f"{name}=={version}, >={bounds[name]}"
