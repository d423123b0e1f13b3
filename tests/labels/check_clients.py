"""Run by the Python of an environment with one tool: what dense_ctx wrote, read by the tool's own code.

python check_clients.py TOOL FOLDER        FOLDER has labels.npy and the files that test_labels_clients.py wrote
"""

import json
import sys
from pathlib import Path

import numpy as np

TOOL, FOLDER = sys.argv[1], Path(sys.argv[2])
LABELS = np.load(FOLDER / "labels.npy")
NAMES = ["background", "cat", "dog"]


def same(labels, what):
    assert np.array_equal(labels, LABELS), f"{what}: {(labels != LABELS).sum()} pixels differ"
    print(f"{what}: {labels.shape}, equal")


def labelme():
    from labelme import utils
    from labelme._label_file import LabelFile

    ids = {"background": 0, "cat": 1, "dog": 2, "__ignore__": 255}
    for shape in ("mask", "polygon"):
        file = LabelFile(str(FOLDER / shape / "a.json"))
        labels, _ = utils.shapes_to_label(LABELS.shape, file.shapes, ids)
        if shape == "mask":
            same(labels, "labelme, masks")
        else:  # it draws outlines too: half a pixel more, of whichever region comes last
            share = (labels == LABELS).mean()
            print(f"labelme, polygons: {share:.3f} of the pixels equal")
            assert share > 0.6


def cvat():
    import datumaro
    from cvat_sdk.masks import decode_mask

    dataset = datumaro.Dataset.import_from(str(FOLDER / "cvat"), "cvat")
    (item,) = dataset
    names = [label.name for label in dataset.categories()[datumaro.AnnotationType.label]]
    labels = np.zeros(LABELS.shape, dtype=np.int64)
    for annotation in item.annotations:
        name = names[annotation.label]
        labels[annotation.image.astype(bool)] = 255 if name == "__ignore__" else NAMES.index(name)
    same(labels, "datumaro's cvat")
    encoded = json.loads((FOLDER / "cvat_mask.json").read_text())
    mask = decode_mask(encoded, image_width=LABELS.shape[1], image_height=LABELS.shape[0])
    assert np.array_equal(mask, LABELS == 1)
    print("cvat-sdk's decode_mask: equal")


def label_studio():
    from label_studio_sdk.converter.brush import decode_from_annotation

    (task,) = json.loads((FOLDER / "label_studio.json").read_text())
    labels = np.zeros(LABELS.shape, dtype=np.int64)
    for region in task["annotations"][0]["result"]:
        flat = {**region, **region["value"]}
        ((_, mask),) = decode_from_annotation("label", [flat]).items()
        (name,) = region["value"]["brushlabels"]
        labels[mask > 0] = 255 if name == "__ignore__" else NAMES.index(name)
    same(labels, "label-studio-sdk")


def ome_zarr():
    import zarr
    from ome_zarr_models import open_ome_zarr

    for version in ("two", "three"):
        group = zarr.open_group(str(FOLDER / f"{version}.zarr" / "labels" / "classes"), mode="r")
        model = open_ome_zarr(group)
        print(type(model).__module__, type(model).__name__)
        assert "label" in type(model).__name__.lower()
        same(np.asarray(group["0"]), f"ome-zarr-models, {version}")


{"labelme": labelme, "cvat": cvat, "label-studio": label_studio, "ome-zarr": ome_zarr}[TOOL]()
