"""Train a model with a head by Lightning: its LightningModule around a DenseModel, whose folder dense_ctx opens.

pip install lightning && python examples/head_lightning.py            # needs the extra demo
"""

import argparse
from pathlib import Path

import lightning
import torch
from dense_ctx_demo import demo
from torch.nn import functional

from dense_ctx import AutoDenseModel
from dense_ctx.data.video import Video
from dense_ctx.images import load


class Segmentation(lightning.LightningModule):
    """Cross-entropy of the decoder's channels; the backbone is frozen and stays in eval mode."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, index):
        images, labels = batch
        loss = functional.cross_entropy(self.model(images).pixels, labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.01)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/lightning"))
    parser.add_argument("--quick", action="store_true", help="five steps")
    args = parser.parse_args()
    lightning.seed_everything(0, verbose=False)
    decoder = {"dim": len(demo.CLASSES), "width": 8, "shortcut": True}
    model = AutoDenseModel.from_parts(
        "efficientnet-lite0", "dpt", backbone_args={"layers": [1, 2]}, decoder_args=decoder
    )
    sample = load(demo.enlarge(Video(demo.clip_path()).first())), demo.enlarge_labels(demo.annotation(0))
    loader = torch.utils.data.DataLoader([sample], batch_size=1)
    steps = 5 if args.quick else 100
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="auto", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    module = Segmentation(model)
    before = functional.cross_entropy(model(sample[0]).pixels, sample[1][None]).item()
    model.train()  # models open in eval mode, which Lightning keeps; features carry gradients in train mode alone
    trainer.fit(module, loader)
    model.eval().cpu()
    after = functional.cross_entropy(model(sample[0]).pixels, sample[1][None]).item()
    folder = model.save_pretrained(args.out / "model")
    again = AutoDenseModel.from_pretrained(folder)
    assert torch.equal(again(sample[0]).pixels, model(sample[0]).pixels)
    print(f"loss {before:.3f} -> {after:.3f}; {folder}")


if __name__ == "__main__":
    main()
