"""What is written, read by the tools themselves: `pytest -m clients` makes an environment for each, by pip."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from client_environments import client_python
from dense_ctx_labels.annotation import Annotation
from dense_ctx_labels.rle import runs
from label_maps import CLASSES, noise, part
from PIL import Image

CHECK = Path(__file__).parent / "labels" / "check_clients.py"
LABELS = noise(2)
ENVIRONMENTS = {
    "labelme": ["labelme==6.3.1"],
    "cvat": ["cvat-sdk==2.80.0", "datumaro==1.13.12"],
    "label-studio": ["label-studio-sdk==2.1.2"],
    "ome-zarr": ["ome-zarr-models>=1.0"],
}


@pytest.mark.clients
@pytest.mark.parametrize("tool", ENVIRONMENTS)
def test_the_tool_reads_what_we_write(tmp_path, tool):
    annotation = Annotation(LABELS, CLASSES, "a.jpg")
    np.save(tmp_path / "labels.npy", LABELS)
    if tool == "labelme":
        for shape in ("mask", "polygon"):
            part("labelme", shape=shape).write(tmp_path / shape, [annotation])
            Image.fromarray(np.zeros(LABELS.shape, np.uint8)).save(tmp_path / shape / "a.jpg")
    elif tool == "cvat":
        part("cvat").write(tmp_path / "cvat" / "default.xml", [annotation])
        (tmp_path / "cvat" / "images").mkdir()
        Image.fromarray(np.zeros(LABELS.shape, np.uint8)).save(tmp_path / "cvat" / "images" / "a.jpg")
        y, x = np.nonzero(LABELS == 1)
        box = [int(x.min()), int(y.min()), int(x.max()), int(y.max())]
        inside = (LABELS == 1)[box[1] : box[3] + 1, box[0] : box[2] + 1]
        (tmp_path / "cvat_mask.json").write_text(json.dumps(runs(inside.ravel()) + box))
    elif tool == "label-studio":
        part("label-studio").write(tmp_path / "label_studio.json", [annotation])
    else:
        from test_labels_rasters import ome

        for name, version in (("two", 2), ("three", 3)):
            root = ome(tmp_path / f"{name}.zarr", np.ones((3, *LABELS.shape), np.uint8), version)
            part("ome-zarr").write(root, [annotation])
    done = subprocess.run(
        [client_python(tool, *ENVIRONMENTS[tool]), CHECK, tool, tmp_path], capture_output=True, text=True
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-2000:]


def test_pycocotools_reads_what_we_write(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    for shape in ("rle", "polygon"):
        file = part("coco", shape=shape).write(tmp_path / f"{shape}.json", [Annotation(LABELS, CLASSES, "a.jpg")])
        data = coco.COCO(str(file))
        names = {item["id"]: item["name"] for item in data.loadCats(data.getCatIds())}
        labels = np.zeros(LABELS.shape, dtype=np.int64)
        for annotation in data.loadAnns(data.getAnnIds()):
            mask = data.annToMask(annotation).astype(bool)
            assert annotation["area"] == mask.sum() or shape == "polygon"
            name = names[annotation["category_id"]]
            labels[mask] = 255 if name == "__ignore__" else CLASSES.id(name)
        share = (labels == LABELS).mean()
        assert share == 1 if shape == "rle" else share > 0.95
