"""No file that the library writes is a pickle or holds one: three scanners of models look at one of each kind.

`pytest -m clients` installs picklescan, modelscan and fickling in an environment of their own. Each of them must also
notice a pickle that was put among the files.
"""

import json
import os
import pickle
import re
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
import torch
from artefacts import KINDS, place_of
from client_environments import client_python
from dense_ctx_dip.task_settings import TaskSettings
from dense_ctx_dip.tasks import make_tasks
from dense_ctx_export import export
from dense_ctx_predict import Predictor
from dense_ctx_session import Session
from evaluation_data import camvid
from PIL import Image
from train_parts import config, install

from dense_ctx import InContext, Part, cli
from dense_ctx.evaluate import evaluate
from dense_ctx.model_spec import open_model
from dense_ctx.train import train

TOOLS = ("picklescan==1.0.5", "modelscan==0.8.8", "fickling==0.1.12", "typing_extensions>=4.12")
SUFFIXES = {
    ".onnx",
    ".pt2",
    ".xml",
    "",
    ".csv",
    ".html",
    ".json",
    ".jsonl",
    ".md",
    ".npy",
    ".png",
    ".jpg",
    ".safetensors",
    ".st",
    ".txt",
    ".yaml",
}
# a file is a pickle if fickling can take it for one, or a member of it that is an archive
FICKLE = """
import json, sys, zipfile
from pathlib import Path
from fickling.loader import scan_file, scan_zip_archive

def is_pickle(path):
    try:
        if zipfile.is_zipfile(path):
            return any(member.results for member in scan_zip_archive(str(path)).values())
        return bool(scan_file(str(path)).results)
    except Exception:  # of its parser: no pickle
        return False

print(json.dumps([path.name for path in sorted(Path(sys.argv[1]).rglob("*")) if path.is_file() and is_pickle(path)]))
"""


class Payload:
    def __reduce__(self):
        return os.system, ("true",)


def pictures(folder):
    folder.mkdir()
    for index in range(3):
        image = np.random.default_rng(index).integers(0, 80, (48, 80, 3), dtype=np.uint8)
        image[12:36, 20:44] = (220, 30, 20)
        Image.fromarray(image).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with one of everything: artefacts, a training run, a predictor, a session, tasks, predictions."""
    root, inputs = tmp_path_factory.mktemp("written"), tmp_path_factory.mktemp("inputs")
    photos = pictures(inputs / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "1")
        install(inputs / "site", patch)
        for kind, make in KINDS.items():
            folder = root / kind.replace(" ", "_")
            folder.mkdir()
            make().save(place_of(kind, folder), 1)
        train(config(root / "run", steps=2, save={"every": 1}))
    model = open_model("rgb-xy+upsample", "cpu")
    mask = torch.zeros(48, 80, dtype=torch.long)
    mask[12:36, 20:44] = 1
    context = InContext(model).fit(photos / "0.png", mask)
    Predictor(context, names={0: "ground", 1: "box"}).save(root / "predictor")
    session = Session("rgb-xy+upsample", photos, classes=["ground", "box"])
    session.stroke(0, 0, [(4, 4), (70, 5)], 3)
    session.stroke(0, 1, [(26, 18), (38, 30)], 3)
    session.save(root / "session")
    for name in ("png", "coco", "cvat", "labelme", "label-studio", "yolo"):
        session.export(root / "labels" / name, format=name)
    session.close()
    settings = TaskSettings(side=48, classes=2, segmenter=Part("slic", {"segments": 12}))
    make_tasks(photos, root / "tasks", model, settings, "rgb-xy+upsample")
    np.save(inputs / "depth.npy", np.linspace(1, 4, 48 * 80, dtype=np.float32).reshape(48, 80))
    support = f"{photos / '0.png'}:{inputs / 'depth.npy'}"
    words = ["--support", support, "--query", str(photos / "1.png"), "--task", "depth", "--out", str(root / "depth")]
    assert cli.main(["predict", "--model", "rgb-xy+upsample", *words]) == 0
    assert cli.main(["features", "rgb-xy", str(photos / "1.png"), "--out", str(root / "features")]) == 0
    return root


@pytest.fixture(scope="module")
def exported(written):
    """The folder with exported models and an evaluation in it too, which take a minute."""
    model = open_model("rgb-xy+upsample", "cpu")
    image = torch.rand(3, 48, 80, generator=torch.Generator().manual_seed(0))
    context = InContext(model, "ridge").fit(image, (image[0] > 0.5).long())
    for name, exporter in (("model.onnx", "onnx"), ("model.pt2", "torch-export")):
        export(context, written / name, exporter, image=(255 * image).byte().permute(1, 2, 0).numpy())
    camvid(written / "data")
    evaluate(model, "camvid-linear-grid4-v1", written / "data", written / "evaluation", keep=True)
    return written


@pytest.fixture(scope="module")
def bait(exported, tmp_path_factory):
    """The same folder with pickles that would run a command: a bare one, and one in an archive of torch."""
    folder = tmp_path_factory.mktemp("bait") / "written"
    shutil.copytree(exported, folder)
    (folder / "evil.pkl").write_bytes(pickle.dumps(Payload()))
    with zipfile.ZipFile(folder / "evil.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Payload()))
    return folder


def run(*command):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True)


def test_the_suffixes_are_those_of_data(written):
    files = [path for path in written.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= SUFFIXES
    assert len({path.parent for path in files}) > 10
    for path in files:
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)


@pytest.mark.clients
def test_picklescan(exported, bait):
    python = client_python("scanners", *TOOLS)

    def scan(folder):
        done = run(python, "-m", "picklescan.cli", "--path", folder, "--globals", "--strict")
        matches = re.findall(r"(?:suspicious|dangerous|innocuous)[^\n]*", done.stdout + done.stderr)
        return done.returncode, int(re.search(r"Infected files: (\d+)", done.stdout)[1]), matches

    assert scan(exported) == (0, 0, [])
    assert scan(bait)[:2] == (1, 2)


@pytest.mark.clients
def test_modelscan(exported, bait, tmp_path):
    program = client_python("scanners", *TOOLS).parent / "modelscan"

    def issues(folder):
        report = tmp_path / f"{folder.parent.name}.json"
        run(program, "-p", folder, "-r", "json", "-o", report)
        return json.loads(report.read_text())["summary"]["total_issues"]

    assert issues(exported) == 0
    assert issues(bait) >= 2


@pytest.mark.clients
def test_fickling(exported, bait):
    python = client_python("scanners", *TOOLS)

    def pickles(folder):
        done = run(python, "-c", FICKLE, folder)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert pickles(exported) == []
    assert pickles(bait) == ["evil.pkl", "evil.pt"]
