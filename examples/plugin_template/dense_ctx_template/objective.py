"""A small objective: predict each pixel's colour from its feature."""

from pathlib import Path

from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from dense_ctx import Losses, Objective
from dense_ctx.errors import InputError
from dense_ctx.images import load


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
        """One image, resized."""
        image = load(self.paths[index])[None]
        return functional.interpolate(image, (self.side, self.side), mode="bilinear", antialias=True)[0]


class Colours(Objective):
    """Mean squared error between the image and a linear read-out of its pixel features.

    Args:
        dim: channels of the model's decoder.
        side: images are trained at side x side pixels.
    """

    def __init__(self, dim=32, side=64):
        super().__init__()
        self.side = side
        self.read_out = nn.Conv2d(dim, 3, 1)  # trained with the decoder, not published with it

    def dataset(self, data):
        """The images of the folder `data`."""
        return Files(data, self.side)

    def collate(self, samples):
        """Stack to {"images": [B, 3, side, side]}."""
        return {"images": super().collate(samples)}

    def forward(self, model, batch):
        """The losses of images [B, 3, H, W] in [0, 1]."""
        images = batch["images"].to(model.device)
        loss = functional.mse_loss(self.read_out(model(images).pixels), images)
        return Losses(loss, {"mse": loss.detach()})
