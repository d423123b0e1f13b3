"""Exported files without torch: the runtime as a part of dense-ctx, and as a distribution of its own."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import dense_ctx_runtime
import numpy as np
import pytest
import torch
from dense_ctx_export import export
from dense_ctx_predict.tracking import MaskTracker
from dense_ctx_runtime import OnnxModel, OnnxTracker
from dense_ctx_runtime.geometry import cell_axis, nearest, padded, resize_axis, resized
from torch.nn import functional

from dense_ctx import InContext
from dense_ctx.images import nearest as torch_nearest
from dense_ctx.testing.tiny import tiny_model

ROOT = Path(__file__).parents[1]
SITE = str(Path(np.__file__).parents[1])
IMAGE = np.random.default_rng(0).integers(0, 256, (45, 56, 3), dtype=np.uint8)
source_tree = pytest.mark.skipif(not (ROOT / "runtime").is_dir(), reason="installed without its source")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    mask = (np.arange(45)[:, None] + np.arange(56) > 50).astype(np.uint8)
    context = InContext(tiny_model(), "ridge").fit(IMAGE, mask)
    path = export(context, tmp_path_factory.mktemp("runtime") / "a.onnx", size=(45, 56), image=IMAGE)
    export(MaskTracker(tiny_model()), path.with_name("track.onnx"), size=(45, 56), image=IMAGE)
    np.save(path.with_name("image.npy"), IMAGE)
    np.save(path.with_name("mask.npy"), mask)
    return path


def results(file):
    """What `script` prints first."""
    mask = np.load(file.with_name("mask.npy"))
    masks = list(OnnxTracker(file.with_name("track.onnx")).track([IMAGE, IMAGE[::-1]], mask))
    return [OnnxModel(file).predict(IMAGE).sum(), masks[1].sum()]


def script(file, *lines):
    """A program that runs the files without torch and prints sums of labels, and what of dense_ctx it has loaded."""
    return "\n".join([
        "import sys, json",
        "sys.modules['torch'] = None",
        *lines,
        "import numpy as np",
        "from dense_ctx_runtime import OnnxModel, OnnxTracker",
        f"image, mask = (np.load({str(file.parent)!r} + name) for name in ('/image.npy', '/mask.npy'))",
        f"labels = OnnxModel({str(file)!r}).predict(image)",
        f"masks = list(OnnxTracker({str(file.with_name('track.onnx'))!r}).track([image, image[::-1]], mask))",
        "modules = sorted(n for n in sys.modules if n.startswith('dense_ctx'))",
        "print(json.dumps([[int(labels.sum()), int(masks[1].sum())], modules]))",
    ])  # fmt: skip


def test_no_torch_is_imported(file):
    code = script(file)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0] == results(file)


@source_tree
def test_the_distribution_of_its_own(file, tmp_path):
    """Its wheel, with numpy, Pillow and ONNX Runtime beside it, and nothing else of this environment."""
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(ROOT / "runtime"),
    ]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    wheel = next(tmp_path.glob("*.whl"))
    assert wheel.stat().st_size < 200_000
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        metadata = next(name for name in archive.namelist() if name.endswith("METADATA"))
        requires = [line for line in archive.read(metadata).decode().splitlines() if line.startswith("Requires-Dist")]
    assert {line.split()[1].partition(">")[0] for line in requires} == {"numpy", "onnxruntime", "pillow"}
    packages = ["numpy", "PIL", "onnxruntime", "google", "flatbuffers", "packaging"]
    lines = [
        f"sys.path[:0] = [{str(tmp_path / 'site')!r}]",
        f"sys.path.append({SITE!r})",
        "import importlib.abc",
        "class Only(importlib.abc.MetaPathFinder):",
        "    def find_spec(self, name, path=None, target=None):",
        f"        known = name.partition('.')[0] in {{*sys.stdlib_module_names, *{packages!r}}}",
        "        if not known and not name.startswith(('dense_ctx', 'numpy', '_')): raise ModuleNotFoundError(name)",
        "sys.meta_path.insert(0, Only())",
    ]
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script(file, *lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    total, modules = json.loads(done.stdout)
    assert total == results(file)
    assert "dense_ctx.persistence.pixels" in modules
    whole = "import dense_ctx\nprint(dense_ctx.AutoDenseModel)"
    code = "\n".join(["import sys", *lines, whole])
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert "dense-ctx-runtime has no 'AutoDenseModel': it only runs exported models" in done.stderr


RUN = "from dense_ctx_runtime import OnnxModel\nOnnxModel(sys.argv[1])"
WRITE = """from dense_ctx_export import export
from dense_ctx.testing.tiny import tiny_model
export(tiny_model(), 'x.onnx')"""


@pytest.mark.parametrize(
    ("module", "code", "message"),
    [
        ("onnxruntime", RUN, "needs the package 'onnxruntime': pip install"),
        ("onnx", WRITE, 'pip install "dense-ctx[onnx]"'),
    ],
)
def test_without_the_extra(file, tmp_path, module, code, message):
    code = f"import sys\nsys.modules[{module!r}] = None\n{code}"
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, cwd=tmp_path)
    assert "MissingDependencyError" in done.stderr
    assert message in done.stderr
    assert not (tmp_path / "x.onnx").exists()


def test_public_names():
    assert dense_ctx_runtime.OnnxModel is OnnxModel
    assert dense_ctx_runtime.OnnxTracker is OnnxTracker
    with pytest.raises(AttributeError, match="no attribute 'Model'"):
        _ = dense_ctx_runtime.Model


@pytest.mark.parametrize(("before", "after"), [(7, 19), (19, 7), (8, 8), (5, 4), (1, 6), (30, 2)])
def test_matrices_resize_as_pytorch_does(before, after):
    values = torch.randn(1, 2, before, 9)
    reference = functional.interpolate(
        values, (after, 9), mode="bilinear", align_corners=False, antialias=after < before
    )
    assert np.allclose(resized(values.numpy(), (after, 9)), reference.numpy(), atol=1e-5)
    assert np.allclose(resize_axis(before, after).sum(1), 1, atol=1e-6)


@pytest.mark.parametrize(("length", "step"), [(10, 3), (9, 3), (5, 1), (2, 4)])
def test_cells_average_as_pytorch_does(length, step):
    values = np.random.default_rng(0).random(length).astype(np.float32)
    index, shares = cell_axis(length, step)
    reference = functional.avg_pool1d(torch.from_numpy(values)[None], step, step, ceil_mode=True)[0]
    assert np.allclose((values[index] * shares).sum(1), reference.numpy(), atol=1e-6)


def test_padding_and_nearest_neighbours():
    image = np.random.default_rng(0).random((1, 3, 5, 7)).astype(np.float32)
    reference = functional.pad(torch.from_numpy(image), (0, 1, 0, 3), mode="replicate")
    assert np.array_equal(padded(image, 8), reference.numpy())
    values = np.arange(60).reshape(5, 12)
    for size in [(3, 5), (11, 24), (5, 12)]:
        assert np.array_equal(nearest(values, size), torch_nearest(torch.from_numpy(values), size).numpy())
