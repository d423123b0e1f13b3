"""TrainStep under DistributedDataParallel: two processes with different data keep the same weights."""

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from dense_ctx import Losses, Objective
from dense_ctx.device import end_process_group
from dense_ctx.testing import tiny_model
from dense_ctx.train import TrainStep


class Mean(Objective):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv2d(5, 1, 1)

    def dataset(self, data):
        return data

    def forward(self, model, batch):
        features, padded = model.encode(batch["images"])
        loss = self.head(model.decoder(features, padded, (9, 11))).square().mean()  # past the model's own forward
        return Losses(loss, {"loss": loss})


def worker(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    step = TrainStep(tiny_model(), Mean(), ())
    optimizer = torch.optim.SGD(step.groups, lr=0.1)
    wrapped = DistributedDataParallel(step)
    for seed in range(2):
        generator = torch.Generator().manual_seed(10 * seed + rank)
        optimizer.zero_grad()
        wrapped({"images": torch.rand(2, 3, 24, 40, generator=generator)}).total.backward()
        optimizer.step()
        step.after_step(seed + 1)
    torch.save({n: p.detach() for n, p in step.named_parameters()}, f"{folder}/{rank}.pt")
    del wrapped, step, optimizer
    end_process_group()


@pytest.mark.slow
def test_two_processes_keep_the_same_weights(tmp_path):
    multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    untrained = dict(TrainStep(tiny_model(), Mean(), ()).named_parameters())
    assert not torch.equal(one["model.decoder.project.0.weight"], untrained["model.decoder.project.0.weight"])
    assert torch.equal(one["model.backbone.deep.weight"], untrained["model.backbone.deep.weight"])
