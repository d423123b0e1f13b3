"""Clustering and pairing of as many images as COCO has, from synthetic embeddings: time and peak memory.

python benchmarks/dip_tasks.py --images 118287 --dim 384
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import torch
from common import parse
from dense_ctx_dip.task_folder import SHARD
from dense_ctx_dip.task_settings import TaskSettings
from dense_ctx_dip.tasks import Tasks

from dense_ctx.data.cache import write_shard
from dense_ctx.files import write_json


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--segments", type=int, default=8)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--kmeans", choices=["torch", "faiss"], default="torch")
    args = parse(parser, images=600, classes=20, dim=16)
    with tempfile.TemporaryDirectory() as folder:
        tasks = object.__new__(Tasks)  # without images: what the stages before would have written is made up
        tasks.out, tasks.rank, tasks.world = Path(folder), 0, 1
        tasks.names = [f"{index:012d}.jpg" for index in range(args.images)]
        tasks.settings = TaskSettings(classes=args.classes, kmeans=args.kmeans)
        tasks.progress = lambda items, total, what: items
        draw = torch.Generator().manual_seed(0)
        centres = torch.randn(args.classes, args.dim, generator=draw)
        classes = []  # of each image
        for shard, span in tasks.shards().items():
            kinds = torch.randint(args.classes, (len(span), args.segments), generator=draw)
            rows = centres[kinds] + 0.5 * torch.randn(len(span), args.segments, args.dim, generator=draw)
            index = torch.tensor([[i, args.segments] for i in span])
            tensors = {"segments": rows.flatten(0, 1).half(), "images": rows.mean(1).half(), "index": index}
            write_shard(tasks.embeddings(shard), tensors)
            share = 1 / args.segments
            classes += kinds.tolist()
            votes = {str(i): {str(k): share for k in kind} for i, kind in zip(span, kinds.tolist(), strict=True)}
            write_json(tasks.votes(shard), votes)
        record = {"images": args.images, "segments": args.images * args.segments, "shards": -(-args.images // SHARD)}
        for stage in ("cluster", "pair"):
            began = time.perf_counter()
            getattr(tasks, stage)()
            record[f"{stage}_seconds"] = round(time.perf_counter() - began, 1)
        with (tasks.out / "pairs.jsonl").open() as file:
            pairs = [json.loads(line) for line in file]
        number = {name: index for index, name in enumerate(tasks.names)}
        wrong = [p for p in pairs if any(p["class"] not in classes[number[p[role]]] for role in ("query", "positive"))]
        if wrong or not pairs:
            raise SystemExit(f"{len(wrong)} of {len(pairs)} pairs do not share the class they are said to share")
        record["pairs"] = len(pairs)
        record["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        print(json.dumps({**vars(args), **record}, indent=1))


if __name__ == "__main__":
    main()
