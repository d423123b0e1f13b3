"""A training step of DIP against the plain formulation: seconds, and memory above the model.

The plain form makes one-hot label maps of every pixel, patch by patch, copies the positives once for each distractor,
upsamples the predictions and takes the cross-entropy over pixels.

python benchmarks/dip_step.py --backbone dinov2-reg-s14 --batch 4 --classes 1000
"""

import argparse
import json
import multiprocessing
import resource
import time

import torch
from common import parse, same
from dense_ctx_dip.objective import DipObjective
from torch.nn import functional

from dense_ctx import AutoDenseModel
from dense_ctx.train import TrainStep


def batch_of(batch, size, classes, seed=0):
    draw = torch.Generator().manual_seed(seed)
    cells = torch.randint(classes, (2, batch, 7, 7), generator=draw)
    labels = functional.interpolate(cells.float(), (size, size), mode="nearest").long()
    images = torch.rand(2, batch, 3, size, size, generator=draw)
    rows = torch.stack([torch.randperm(batch, generator=draw) for _ in range(7)])
    return {
        "query": images[0], "positive": images[1], "query_labels": labels[0], "positive_labels": labels[1],
        "distractors": rows,
    }  # fmt: skip


def plain(objective, model, batch, classes):
    """The same loss the long way."""
    query, positive = (model.encode(batch[name])[0].maps[-1] for name in ("query", "positive"))
    size, cells = batch["query_labels"].shape[-1], query.shape[-1]
    rows = [objective.projector(x.flatten(2).transpose(1, 2)) for x in (query, positive)]
    patch = size // cells
    labels = batch["positive_labels"].unfold(1, patch, patch).unfold(2, patch, patch).flatten(3).flatten(1, 2)
    labels = functional.one_hot(labels, classes).float().mean(2)
    keys, values = [rows[1]], [labels]
    for permutation in batch["distractors"]:
        keys.append(torch.stack([rows[1][index] for index in permutation]))
        values.append(torch.stack([labels[index] for index in permutation]))
    keys, values = functional.normalize(torch.cat(keys, 1), dim=-1), torch.cat(values, 1)
    scores = functional.normalize(rows[0], dim=-1) @ keys.transpose(1, 2) / objective.temperature
    predicted = (scores.softmax(-1) @ values).transpose(1, 2).unflatten(2, (cells, cells))
    large = functional.interpolate(predicted, (size, size), mode="nearest")
    return functional.cross_entropy(large, batch["query_labels"])


def measure(form, args, out):
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    model = AutoDenseModel.from_parts(args.backbone, "upsample", backbone_args={"weights": None})
    objective = DipObjective(loss="official", classes=args.classes, size=args.size)
    step = TrainStep(model, objective, ())
    batch = batch_of(args.batch, args.size, args.classes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, loss, gradient = [], None, 0.0
    for _ in range(args.steps):
        began = time.perf_counter()
        step.zero_grad()
        loss = step(batch).total if form == "ours" else plain(objective, model, batch, args.classes)
        loss.backward()
        seconds.append(time.perf_counter() - began)
        gradient = float(sum(p.grad.square().sum() for p in step.parameters() if p.grad is not None)) ** 0.5
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out.put({
        "seconds": round(min(seconds), 3), "extra_mb": round((peak - before) / 1024), "loss": float(loss.detach()),
        "gradient": gradient,
    })  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="dinov2-reg-s14")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parse(parser, batch=2, size=112, classes=16, steps=1)
    context, record = multiprocessing.get_context("spawn"), {}
    for form in ("ours", "plain"):  # a process each: a peak does not come down again
        queue = context.Queue()
        process = context.Process(target=measure, args=(form, args, queue))
        process.start()
        record[form] = queue.get()
        process.join()
    for name, limit in (("loss", 1e-5), ("gradient", 1e-3)):
        ours, theirs = (record[form][name] for form in ("ours", "plain"))
        same(abs(ours - theirs) / abs(theirs), limit, name)
    record["times_faster"] = round(record["plain"]["seconds"] / record["ours"]["seconds"], 1)
    record["share_of_memory"] = round(record["ours"]["extra_mb"] / max(1, record["plain"]["extra_mb"]), 2)
    print(json.dumps({**vars(args), **record}, indent=1))


if __name__ == "__main__":
    main()
