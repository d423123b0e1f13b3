"""Write coco/, cvat/, label_studio/ and yolo/ with the tools' own writers: see README.md.

python -m venv tools
tools/bin/pip install pycocotools==2.0.11 label-studio-sdk==2.1.2 cvat-sdk==2.80.0 datumaro==1.13.12
tools/bin/python tests/labels/make_others.py
"""

import json
import shutil
import tempfile
from pathlib import Path

import datumaro as dm
import numpy as np
from cvat_sdk.masks import encode_mask
from label_studio_sdk.converter import Converter
from label_studio_sdk.converter.brush import image2annotation, mask2rle
from label_studio_sdk.converter.imports.coco import convert_coco_to_ls
from PIL import Image
from pycocotools import mask as coco_mask

HERE = Path(__file__).parent
SIZE = (48, 64)
POLYGON = [5.5, 4.25, 30.0, 6.0, 27.5, 30.75, 12.0, 26.0]
SECOND = [33.0, 5.0, 40.5, 5.0, 40.0, 12.5]
RNG = np.random.default_rng(0)
BLOB = np.zeros(SIZE, dtype=bool)
BLOB[30:40, 40:60] = True
BLOB[33:36, 45:50] = False
NOISE = RNG.random(SIZE) < 0.5


def fresh(name):
    shutil.rmtree(HERE / name, ignore_errors=True)
    (HERE / name).mkdir()
    return HERE / name


def coco():
    """Encoded and measured by pycocotools; laid out as cocodataset.org says."""
    folder = fresh("coco")
    rle = coco_mask.encode(np.asfortranarray(BLOB))
    polygons = coco_mask.merge(coco_mask.frPyObjects([POLYGON, SECOND], *SIZE))
    noise = coco_mask.encode(np.asfortranarray(NOISE))
    text = {"size": list(SIZE), "counts": rle["counts"].decode()}
    flat = BLOB.T.ravel()
    lengths = np.diff(np.flatnonzero(np.diff(flat)) + 1, prepend=0, append=flat.size).tolist()
    again = coco_mask.frPyObjects({"size": list(SIZE), "counts": lengths}, *SIZE)
    assert (coco_mask.decode(again) == BLOB).all()
    data = {
        "images": [{"id": 7, "file_name": "val/a.jpg", "height": SIZE[0], "width": SIZE[1]},
                   {"id": 9, "file_name": "val/b.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"},
                       {"id": 3, "name": "car", "supercategory": "vehicle", "color": [10, 20, 30]}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "iscrowd": 0, "segmentation": [POLYGON, SECOND],
             "area": float(coco_mask.area(polygons)), "bbox": coco_mask.toBbox(polygons).tolist()},
            {"id": 2, "image_id": 7, "category_id": 3, "iscrowd": 0, "segmentation": text,
             "area": float(coco_mask.area(rle)), "bbox": coco_mask.toBbox(rle).tolist()},
            {"id": 3, "image_id": 9, "category_id": 3, "iscrowd": 1,
             "segmentation": {"size": list(SIZE), "counts": lengths}, "area": int(BLOB.sum()),
             "bbox": [40, 30, 20, 10]},
            {"id": 4, "image_id": 9, "category_id": 18, "iscrowd": 0, "area": int(NOISE.sum()), "bbox": [0, 0, 64, 48],
             "segmentation": {"size": list(SIZE), "counts": noise["counts"].decode()}},
        ],
    }  # fmt: skip
    (folder / "instances.json").write_text(json.dumps(data))
    labels = coco_mask.decode(polygons) * 1 + BLOB * 2
    Image.fromarray(labels.astype(np.uint8)).save(HERE / "coco_a.png")
    Image.fromarray(NOISE.astype(np.uint8)).save(HERE / "coco_b.png")
    return folder / "instances.json"


def dataset():
    """The same as a data set of datumaro, which CVAT exports and imports by."""
    points = [*POLYGON]
    items = [
        dm.DatasetItem(
            "a",
            subset="train",
            media=dm.Image.from_numpy(np.zeros((*SIZE, 3), dtype=np.uint8)),
            annotations=[dm.Polygon(points, label=0, z_order=1), dm.Mask(BLOB, label=1, z_order=2),
                         dm.Bbox(20, 20, 20, 20, label=1, z_order=0)],
        ),
        dm.DatasetItem(
            "b",
            subset="train",
            media=dm.Image.from_numpy(np.zeros((*SIZE, 3), dtype=np.uint8)),
            annotations=[dm.PolyLine([4.0, 4.0, 20.0, 8.5, 33.0, 5.0], label=0), dm.Points([60.0, 44.0], label=1)],
        ),
    ]  # fmt: skip
    return dm.Dataset.from_iterable(items, categories=["dog", "car"], media_type=dm.Image)


def cvat():
    folder = fresh("cvat")
    with tempfile.TemporaryDirectory() as place:
        dataset().export(place, "cvat", save_media=False)
        for path in Path(place).rglob("*.xml"):
            shutil.copy(path, folder / "annotations.xml")
    x, y = 30, 40
    encoded = [int(value) for value in encode_mask(BLOB)]
    (folder / "cvat_sdk_mask.json").write_text(json.dumps({"encoded": encoded, "first": [y, x]}))


def label_studio(coco_file):
    folder = fresh("label_studio")
    Image.fromarray(BLOB.astype(np.uint8) * 255).save(folder / "mask.png")
    annotation = image2annotation(str(folder / "mask.png"), "car", "tag", "image")
    (folder / "mask.png").unlink()
    noise = {**annotation["result"][0], "id": "noise", "value": {
        "format": "rle", "brushlabels": ["dog"], "rle": mask2rle(NOISE.astype(np.uint8) * 255)}}  # fmt: skip
    tasks = [
        {"id": 1, "data": {"image": "/data/upload/3/0a1b2c3d-a.jpg"}, "annotations": [{"id": 5, **annotation}]},
        {"id": 2, "data": {"image": "/data/local-files/?d=val/b.jpg"},
         "annotations": [{"id": 6, "result": [noise], "ground_truth": True}, {"id": 7, "result": []}]},
        {"id": 3, "data": {"image": "https://example.org/c.jpg"}, "annotations": [], "predictions": []},
    ]  # fmt: skip
    (folder / "brush.json").write_text(json.dumps(tasks))
    polygons = json.loads(coco_file.read_text())
    polygons["annotations"] = [a for a in polygons["annotations"] if isinstance(a["segmentation"], list)]
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "coco.json").write_text(json.dumps(polygons))
        convert_coco_to_ls(str(Path(place) / "coco.json"), str(Path(place) / "ls.json"), out_type="annotations")
        for name in ("json", "label_config.xml"):
            shutil.copy(Path(place) / f"ls.{name}", folder / f"polygons.{name}")


def yolo():
    """By Label Studio's converter, whose YOLO has segments where its labels are polygons."""
    folder = fresh("yolo")
    config = """<View><Image name="image" value="$image"/><PolygonLabels name="label" toName="image">
        <Label value="dog"/><Label value="car"/></PolygonLabels></View>"""
    points = (np.reshape(POLYGON, (-1, 2)) * (100 / SIZE[1], 100 / SIZE[0])).tolist()
    region = {"id": "r", "type": "polygonlabels", "value": {"points": points, "polygonlabels": ["car"]},
              "to_name": "image", "from_name": "label", "original_width": 64, "original_height": 48}  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        Image.fromarray(np.zeros(SIZE, dtype=np.uint8)).save(root / "a.jpg")
        task = {"id": 1, "data": {"image": str(root / "a.jpg")}, "annotations": [{"id": 1, "result": [region]}]}
        (root / "in.json").write_text(json.dumps([task]))
        converter = Converter(config, str(root), download_resources=False)
        converter.convert_to_yolo(str(root / "in.json"), str(root / "out"), is_dir=False)
        for path in (root / "out").rglob("*"):
            if path.suffix == ".txt":
                target = folder / path.relative_to(root / "out")
                target.parent.mkdir(exist_ok=True)
                shutil.copy(path, target)


file = coco()
cvat()
label_studio(file)
yolo()
