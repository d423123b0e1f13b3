"""Write labelme/ with labelme's own writer and its own rasteriser: see README.md.

python -m venv labelme-venv && labelme-venv/bin/pip install labelme==6.3.1
labelme-venv/bin/python tests/labels/make_labelme.py
"""

from pathlib import Path

import numpy as np
from labelme import utils
from labelme._label_file import LabelFile, write_label_file
from PIL import Image

HERE = Path(__file__).parent / "labelme"
SIZE = (48, 64)
COMMON = {"group_id": None, "description": "", "flags": {}, "mask": None}


def shape(label, kind, points, **more):
    return {"label": label, "points": points, "shape_type": kind, **COMMON, **more}


blob = np.zeros((10, 12), dtype=np.uint8)
blob[2:8, 1:11] = 1
blob[4:6, 4:7] = 0
AREAS = [
    shape("leaf", "polygon", [[5.5, 4.25], [30.0, 6.0], [27.5, 30.75], [12.0, 26.0]]),
    shape("stem", "rectangle", [[40.0, 40.0], [20.0, 20.0]]),
    shape("fruit", "circle", [[50.0, 12.0], [56.0, 12.0]]),
    shape("fruit", "mask", [[45.0, 30.0], [56.0, 39.0]], mask=utils.img_arr_to_b64(blob)),
    shape("__ignore__", "oriented_rectangle", [[2.0, 40.0], [10.0, 36.0], [12.0, 40.0], [4.0, 44.0]]),
]
STROKES = [
    shape("leaf", "linestrip", [[4.0, 4.0], [20.0, 8.5], [33.0, 5.0]]),
    shape("stem", "line", [[10.0, 40.0], [50.0, 40.0]]),
    shape("_background_", "point", [[60.0, 44.0]]),
    shape("fruit", "points", [[30.0, 20.0], [34.0, 22.0]]),
]

HERE.mkdir(exist_ok=True)
picture = np.indices(SIZE).sum(0).astype(np.uint8)
Image.fromarray(picture).save(HERE / "areas.png")
Image.fromarray(picture).save(HERE / "strokes.jpg")
for name, shapes in (("areas.png", AREAS), ("strokes.jpg", STROKES)):
    write_label_file(
        str((HERE / name).with_suffix(".json")),
        shapes=shapes,
        image_path=name,
        image_height=SIZE[0],
        image_width=SIZE[1],
        image_data=(HERE / name).read_bytes() if name == "areas.png" else None,
        other_data={},
        flags={},
    )
ids = {"_background_": 0, "fruit": 1, "leaf": 2, "stem": 3, "__ignore__": 255}
label, _ = utils.shapes_to_label(SIZE, LabelFile(str(HERE / "areas.json")).shapes, ids)
Image.fromarray(label.astype(np.uint8)).save(HERE.parent / "labelme_areas.png")
