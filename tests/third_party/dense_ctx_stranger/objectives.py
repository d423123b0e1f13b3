"""Three objectives: one that can score, the same with an error in its score, and one that cannot score."""

from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from dense_ctx.images import load
from dense_ctx.interfaces import Losses, Objective, ScoredObjective


class Samples(Dataset):
    """Image [3, *image_size] and labels [*size] of each sample of an ImageSet."""

    def __init__(self, images, image_size, size):
        self.images, self.image_size, self.size = images, image_size, size

    def __len__(self):
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index):
        """One image and its labels, resized."""
        sample = self.images[index]
        labels = functional.interpolate(sample.target[None, None].float(), self.size, mode="nearest-exact")
        image = functional.interpolate(sample.image[None], self.image_size, mode="bilinear", antialias=True)
        return {"image": image[0], "labels": labels[0, 0].long()}


class Stripes(ScoredObjective):
    """Cross-entropy of each pixel; the score is the share of pixels whose class is right."""

    metric = "share"
    size, image_size = (16, 32), (16, 32)  # a benchmark sets both
    optimizer = MappingProxyType({"lr": 0.05})

    def dataset(self, data: Any) -> Dataset:
        """The samples of an ImageSet."""
        self.classes = len(data.classes)
        return Samples(data, self.image_size, self.size)

    def outputs(self, dataset: Dataset) -> int:
        """A channel for each class."""
        return len(dataset.images.classes)

    def forward(self, model, batch) -> Losses:
        """The loss of images [B, 3, H, W] and labels [B, h, w]."""
        scores = model(batch["image"].to(model.device), size=self.size).pixels
        loss = functional.cross_entropy(scores, batch["labels"].to(scores.device), ignore_index=-1)
        return Losses(loss, {"cross_entropy": loss.detach()})

    @torch.no_grad()
    def score(self, model, images, *, features=None) -> dict[str, float]:
        """The share of right pixels over all images. The backbone is small: `features` are not read."""
        right, pixels = 0, 0
        for item in Samples(images, self.image_size, self.size):
            labels = item["labels"]
            classes = model(item["image"][None].to(model.device), size=self.size).pixels[0].argmax(0).cpu()
            right, pixels = right + int((classes == labels).sum()), pixels + int((labels >= 0).sum())
        return {"share": right / pixels, "images": len(images)}


class TornScore(Stripes):
    """As `Stripes`, but its score has an error of the kind that a programmer makes."""

    def score(self, model, images, *, features=None) -> dict[str, float]:
        """Raise a bare TypeError."""
        return {"share": len(images) + "the stranger's own mistake"}


class Files(Dataset):
    """Images [3, 16, 32] in [0, 1] of the files in a folder."""

    def __init__(self, folder):
        self.paths = sorted(Path(folder).glob("*.png"))

    def __len__(self):
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, index) -> Tensor:
        """One image, resized."""
        return functional.interpolate(load(self.paths[index])[None], (16, 32), mode="bilinear", antialias=True)[0]


class Colours(Objective):
    """Mean squared error between the image and a linear read-out of its pixel features."""

    def __init__(self) -> None:
        super().__init__()
        self.head: nn.Conv2d | None = None  # trained with the decoder, not published with it

    def dataset(self, data: Any) -> Dataset:
        """The images of the folder `data`."""
        return Files(data)

    def collate(self, samples):
        """Stack to {"images": [B, 3, 16, 32]}."""
        return {"images": super().collate(samples)}

    def setup(self, model, dataset, *, fresh):
        """Make the head, which the default then trains with the decoder."""
        self.head = nn.Conv2d(model.dim, 3, 1).to(model.device)
        return super().setup(model, dataset, fresh=fresh)

    def forward(self, model, batch) -> Losses:
        """The losses of images [B, 3, H, W] in [0, 1]."""
        images = batch["images"].to(model.device)
        loss = functional.mse_loss(self.head(model(images).pixels), images)
        return Losses(loss, {"mse": loss.detach()})
