"""Tasks of one's own for DIP's tests: striped pictures whose colours are the classes, and lists of pairs."""

import numpy as np
from evaluation_data import save, scene
from tiny_datasets import labels


def tasks(root, count=4, size=(24, 36), classes=4, suffix=".png"):
    """Images, labels and a text file of pairs; what `TaskPairs.open` takes."""
    for index in range(count):
        picture, label = scene(index, size, classes)
        save(root / f"images/{index}.png", picture)
        if suffix == ".png":
            labels(root / f"labels/{index}.png", label)
        else:
            (root / "labels").mkdir(exist_ok=True)
            np.save(root / f"labels/{index}.npy", label.astype(np.int32))
    rows = [f"{index}.png {(index + 1) % count}.png {(index + 2) % count}.png" for index in range(count)]
    (root / "pairs.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {"images": str(root / "images"), "labels": str(root / "labels"), "pairs": str(root / "pairs.txt"),
            "classes": classes}  # fmt: skip
