"""A data set: images of cells with masks. Importing this module loads no torch: `dense-ctx datasets` lists layouts."""

from dense_ctx_datasets.files import read_labels, require
from dense_ctx_datasets.pairs import Pair, PairSet, read_list

from dense_ctx.data.base import DatasetReader, Layout, choose

CLASSES = ("background", "cell")


class Cells(DatasetReader):
    """ROOT/SPLIT.txt names the images of a split, one a line."""

    layout = Layout(
        name="template-cells",
        title="Cells of our lab",
        kind="segmentation",
        url="https://example.org/cells",  # where to download it; dense_ctx downloads no data set
        licence="CC BY 4.0",
        splits=("val", "train"),  # the default first
        expected=(
            ("<split>.txt", "names of the split's images, one a line"),
            ("images/<name>.png", "images"),
            ("masks/<name>.png", "masks: 0 background, 1 cell, 255 not annotated"),
        ),
        options=(("grey", "true: grey images, the colour is removed; false (default): as they are"),),
    )

    def open(self, root, split=None, grey=False):
        """List the images of a split; a missing image or mask is listed in the set's `problems`."""
        listing = require(root / f"{choose(split, self.layout)}.txt", self.layout, "file")
        names = read_list(listing)
        pairs = [Pair(name, root / "images" / f"{name}.png", root / "masks" / f"{name}.png") for name in names]
        images = GreyPairs if grey else PairSet
        return images(pairs, lambda path: read_labels(path, len(CLASSES)), self.layout, classes=CLASSES)


class GreyPairs(PairSet):
    """Samples whose three channels are their mean."""

    def __getitem__(self, index):
        """Read one sample: image float32 [3, H, W] in [0, 1], target int64 [H, W] with -1 for "not annotated"."""
        from dataclasses import replace

        sample = super().__getitem__(index)
        return replace(sample, image=sample.image.mean(0, keepdim=True).expand(3, -1, -1))
