"""Images with targets of every kind, made of coloured boxes: what a head can learn from colours in a few steps."""

import torch

from dense_ctx.data import ImageSet, Sample

H, W = 40, 56


class Boxes(ImageSet):
    """Two boxes on a dark ground; the left one red, the right one blue. Targets follow from them."""

    def __init__(self, kind="instances", count=6, empty=(), void=False, size=(H, W), first=0):
        self.kind, self.void, self.empty, self.size = kind, void, set(empty), size
        self.first = first
        self.names = [f"box-{first + n}" for n in range(count)]
        self.classes = ("ground", "red", "blue") if kind == "segmentation" else ()

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(self.first + index)
        height, width = self.size
        ids = torch.zeros(height, width, dtype=torch.int64)
        if index not in self.empty:
            for number, (low, high) in enumerate(((0, width // 2 - 12), (width // 2, width - 12)), start=1):
                top = int(torch.randint(2, height - 16, (), generator=generator))
                left = int(torch.randint(low + 1, high, (), generator=generator))
                ids[top : top + 12, left : left + 11] = number
        image = 0.1 + 0.02 * torch.rand(3, height, width, generator=generator)
        image[0][ids == 1] = 0.9
        image[2][ids == 2] = 0.9
        return Sample(self.names[index], image, self.annotation(ids))

    def annotation(self, ids):
        if self.kind == "depth":
            depth = 4.0 - ids.float()[None]
            return depth * float("nan") if self.void else depth
        if self.kind == "normals":
            towards = torch.tensor([0.0, 0.0, -1.0])[:, None, None].expand(3, *ids.shape)
            left = torch.tensor([-1.0, 0.0, 0.0])[:, None, None]
            return torch.where(ids > 0, left, towards) * (float("nan") if self.void else 1.0)
        return torch.full_like(ids, -1) if self.void else ids


KINDS = {
    "boundaries": "instances", "distance": "instances", "instances": "instances", "semantic": "segmentation",
    "depth": "depth", "normals": "normals",
}  # fmt: skip
OUTPUTS = {"boundaries": 1, "distance": 1, "instances": 8, "semantic": 3, "depth": 1, "normals": 3}
