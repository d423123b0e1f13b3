"""A small objective: predict each pixel's colour from its feature."""

from pathlib import Path

from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from dense_ctx import Losses, Objective
from dense_ctx.errors import InputError
from dense_ctx.images import load, resized


class Files(Dataset):
    """Images [3, side, side] in [0, 1] of the files in a folder."""

    def __init__(self, folder, side):
        self.paths = sorted(path for path in Path(folder).iterdir() if path.suffix in (".png", ".jpg"))
        self.side = side
        if not self.paths:
            raise InputError(f"{folder} has no .png or .jpg file; name a folder of images")

    def __len__(self):
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, index):
        """Read one image and resize it."""
        return resized(load(self.paths[index]), (self.side, self.side))


class Colours(Objective):
    """Mean squared error between the image and a linear read-out of its pixel features.

    Args:
        side: images are trained at side x side pixels.
    """

    def __init__(self, side=64):
        super().__init__()
        self.side = side
        self.head = None

    def dataset(self, data):
        """The images of the folder `data`."""
        return Files(data, self.side)

    def collate(self, samples):
        """Stack to {"images": [B, 3, side, side]}."""
        return {"images": super().collate(samples)}

    def setup(self, model, dataset, *, fresh):
        """Make the head: it is trained with the decoder, and not published with it.

        An objective that initialises the decoder from data does so here, if `fresh`.
        """
        self.head = nn.Conv2d(model.dim, 3, 1).to(model.device)
        return super().setup(model, dataset, fresh=fresh)

    def forward(self, model, batch):
        """Compute the losses of images [B, 3, H, W] in [0, 1]."""
        images = batch["images"].to(model.device)
        loss = functional.mse_loss(self.head(model(images).pixels), images)
        return Losses(loss, {"mse": loss.detach()})
