"""An optional package that is installed and fails at import fails the parts that need it, by name, and nothing else."""

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from dense_ctx_datasets.coco import _load
from dense_ctx_datasets.nyuv2_mat import MatSet
from dense_ctx_dip.kmeans import kmeans
from dense_ctx_labels.auto import recognised
from dense_ctx_measures.flow import dis_flow
from dense_ctx_predict.exr import read_depth_values
from dense_ctx_probes.retrieval_search import ApproximateIndex
from dense_ctx_probes.text_encoders import text_encoder
from dense_ctx_runtime import OnnxModel

from dense_ctx import registry
from dense_ctx.commands.plugins import check_targets
from dense_ctx.errors import MissingDependencyError, PluginError
from dense_ctx.plugins import load_plugins

PLUGINS = Path(__file__).parents[1] / "plugins"
# imported with the part, so that `plugins --check` meets them: package -> the part
WITH_THE_PART = {
    "diffusers": ("segmenter", "diffcut"), "skimage": ("segmenter", "slic"), "rasterio": ("label-format", "geotiff"),
    "zarr": ("label-format", "ome-zarr"), "onnx": ("exporter", "onnx"),
    **{name: ("tracker", name) for name in ("aim", "mlflow", "wandb")},
}  # fmt: skip
ROWS = torch.rand(20, 4)
# imported when the part is built or used
WHEN_USED = {
    "cv2": [lambda: registry().create("cue", "flow:dis")(torch.rand(1, 3, 32, 48), torch.rand(1, 3, 32, 48)),
            lambda: dis_flow(torch.rand(3, 32, 48), torch.rand(3, 32, 48))],
    "ptlflow": [lambda: registry().create("cue", "flow:sea-raft-s")],
    "faiss": [lambda: kmeans(ROWS, 2, engine="faiss"), lambda: ApproximateIndex(ROWS, "ivf")],
    "h5py": [lambda: MatSet(Path("nyu"), Path("nyu"), "val", "depth", (), False, (1, 1, 1), None)],
    "pycocotools": [lambda: _load(Path("instances.json"))],
    **{key: [lambda: registry().create("command", "explore").run(Namespace()),
             lambda: registry().create("command", "serve").run(Namespace())] for key in ("starlette", "uvicorn")},
    "sklearn": [lambda: runpy.run_module("dense_ctx_sklearn.package")],
    "cvat_sdk": [lambda: runpy.run_module("dense_ctx_cvat.sdk")],
    "OpenEXR": [lambda: read_depth_values(Path("depth.exr"))],
    "onnxruntime": [lambda: OnnxModel(__file__)],
    "open_clip": [lambda: text_encoder("open_clip:ViT-B-32/laion2b_s34b_b79k", "cpu")],
}  # fmt: skip
OPTIONAL = {*WITH_THE_PART, *WHEN_USED}
# imported by modules that napari alone imports, from the manifest; triton only to be there before the display's driver
IN_NAPARI = {"napari", "qtpy", "triton"}
# packages that every installation has, by the names of their modules
REQUIRED = {
    "PIL", "av", "accelerate", "einops", "filelock", "huggingface_hub", "numpy", "peft", "safetensors", "scipy", "timm",
    "torch", "torchvision", "tqdm", "transformers", "typing_extensions",
}  # fmt: skip


def imported(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "optional_package":
            yield node.args[0].value


@pytest.mark.skipif(not PLUGINS.exists(), reason="not a source tree")
def test_every_optional_package_is_listed_here():
    roots = {name.partition(".")[0] for file in PLUGINS.rglob("*.py") for name in imported(file)}
    others = {name for name in roots if not name.startswith("dense_ctx")} - set(sys.stdlib_module_names)
    assert others - REQUIRED == OPTIONAL | IN_NAPARI


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Makes a package one that raises at import; the modules that need it are imported anew."""

    def make(package, *modules):
        (tmp_path / f"{package}.py").write_text(f"raise RuntimeError('{package} is broken here')\n")
        monkeypatch.syspath_prepend(tmp_path)
        for name in [*sys.modules]:
            if name.partition(".")[0] == package or name in modules:
                monkeypatch.delitem(sys.modules, name)

    return make


@pytest.mark.parametrize("package", WITH_THE_PART)
def test_only_the_part_that_needs_it_fails(broken, package):
    kind, name = WITH_THE_PART[package]
    broken(package, registry().get(kind, name)[0].target.partition(":")[0])
    parts = load_plugins(strict=False)
    owner = parts.get(kind, name)[0].owner
    entries = [entry for entry in parts.entries() if entry.owner == owner]
    # trackers have environments of their own, and are missing here
    problems = [each for each in check_targets(parts, entries) if not isinstance(each[1], MissingDependencyError)]
    assert [(entry.kind, entry.name) for entry, _ in problems] == [(kind, name)]
    message = str(problems[0][1])
    for word in (f"{kind} {name!r}", f"RuntimeError: {package} is broken here", "pip install --force-reinstall"):
        assert word in message
    assert not parts.failures
    assert len([*parts.entries()]) == len([*registry().entries()])  # nothing was unregistered


@pytest.mark.parametrize(("package", "use"), [(package, use) for package, uses in WHEN_USED.items() for use in uses])
def test_a_use_names_the_package(broken, package, use):
    broken(package)
    with pytest.raises(PluginError, match=rf"needs .*{package}.*fails at import.*{package} is broken here") as error:
        use()
    assert "pip install" in str(error.value)


@pytest.mark.parametrize("package", ["rasterio", "zarr"])
def test_files_of_other_formats_are_recognised_nevertheless(broken, package, tmp_path, monkeypatch, capsys):
    from dense_ctx import cli, plugins

    broken(package, registry().get(*WITH_THE_PART[package])[0].target.partition(":")[0])
    monkeypatch.setattr(plugins, "_registry", load_plugins(strict=False))
    (tmp_path / "a.json").write_text(json.dumps({"shapes": [], "imagePath": "a.jpg", "version": "5"}))
    assert recognised(tmp_path / "a.json") == "labelme"
    assert cli.main(["labels"]) == 0
    assert re.search(rf"{WITH_THE_PART[package][1]}.*fails at import|{package} is broken here", capsys.readouterr().out)


def test_the_verb_with_a_package_on_the_path_that_raises(tmp_path):
    (tmp_path / "diffusers.py").write_text("raise RuntimeError('built for another CUDA')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "dense_ctx.cli", "plugins", "--check", "--json", "segmenter"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    document = json.loads(done.stdout)
    assert (done.returncode, document["failures"]) == (1, []), done.stderr
    assert [(part["kind"], part["name"]) for part in document["unavailable"]] == [("segmenter", "diffcut")]
    assert "built for another CUDA" in document["unavailable"][0]["cause"]
