"""A data set: coloured stripes, described by a text file for each split. Importing this module loads no torch."""

from pathlib import Path

from dense_ctx.data.base import DatasetReader, ImageSet, Layout, Sample

COLOURS = ((0.9, 0.1, 0.1), (0.1, 0.8, 0.2), (0.1, 0.2, 0.9))


class Images(ImageSet):
    """An image for each line: "0 1 2 1" is four stripes, 16 pixels high and 8 wide; the first row is not annotated."""

    kind = "segmentation"
    classes = ("red", "green", "blue")

    def __init__(self, path: Path, noise: float) -> None:
        self.noise = noise
        self.rows = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self.problems = [] if path.is_file() else [f"{path} is missing"]
        self.names = [f"{path.stem}-{index}" for index in range(len(self.rows))]

    def __getitem__(self, index: int) -> Sample:
        """Draw one image."""
        import torch

        ids = torch.tensor([int(word) for word in self.rows[index].split()])
        target = ids.repeat_interleave(8).expand(16, -1).clone()
        image = torch.tensor(COLOURS)[target].movedim(-1, 0)
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(index))
        target[0] = -1
        return Sample(self.names[index], (image + self.noise * noise).clamp(0, 1), target)


class Stripes(DatasetReader):
    """ROOT/SPLIT.txt to images."""

    layout = Layout(
        name="stranger-stripes",
        title="Stripes of a stranger",
        kind="segmentation",
        url="your own text files",
        licence="yours",
        splits=("train", "val"),
        expected=(("<split>.txt", "for each image a line of class ids, 0 to 2, from left to right"),),
        options=(("noise", "standard deviation of the noise on the colours, 0.05"),),
    )

    def open(self, root: Path, split: str | None = None, noise: float = 0.05) -> ImageSet:
        """The images of a split; a missing file is a problem of the set."""
        return Images(Path(root) / f"{split or self.layout.splits[0]}.txt", noise)
