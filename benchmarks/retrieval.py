"""Search against faiss' flat index, building a bank with its histograms against one-hot pixels, and a large bank.

python benchmarks/retrieval.py                         # 100,000 x 384, 2,000 queries, top 30
python benchmarks/retrieval.py --rows 10240000         # built and searched in blocks, float16; no faiss
python benchmarks/retrieval.py --rows 10240000 --folder DIR   # the same in files mapped into memory
"""

import argparse
import json
import statistics
import time

import torch
from common import in_turn, machine, parse, peak_mb, ratio, same
from dense_ctx_probes.retrieval import RetrievalProbe
from dense_ctx_probes.retrieval_bank import Bank
from dense_ctx_probes.retrieval_search import nearest
from torch.nn import functional

from dense_ctx.interfaces import DenseFeatures


def one_hot_bank(maps, targets, classes):
    """The plain way: patches of one-hot pixels, and their mean."""
    grid = maps.shape[-1]
    patch = targets.shape[-1] // grid
    values = []
    for target in targets:
        pixels = target.unfold(0, patch, patch).unfold(1, patch, patch).flatten(2).flatten(0, 1)
        values.append(functional.one_hot(pixels, classes).float().mean(1))
    return functional.normalize(maps.flatten(2).transpose(1, 2).flatten(0, 1), dim=1), torch.cat(values)


def building(images, rounds, classes=150, grid=32, patch=16, dim=384):
    draw = torch.Generator().manual_seed(0)
    maps = torch.randn(images, dim, grid, grid, generator=draw)
    targets = torch.randint(classes, (images, grid * patch, grid * patch), generator=draw)
    features = DenseFeatures(torch.empty(images, 1, 1, 1), maps)

    def ours():
        probe = RetrievalProbe(classes=classes, sampling="uniform", memory=images * grid * grid)
        return probe.partial_fit(features, targets).bank_.whole()

    def plain():
        return one_hot_bank(maps, targets, classes)

    same(max(float((a - b).abs().max()) for a, b in zip(ours(), plain(), strict=True)), 1e-6, "banks")
    seconds = in_turn({"ours": ours, "plain": plain}, rounds)
    return {
        "build_seconds": round(statistics.median(seconds["ours"]), 2),
        "plain_build / ours": ratio(seconds["plain"], seconds["ours"]),
    }


def against_faiss(queries, keys, rounds, k=30):
    import faiss

    flat = faiss.IndexFlatIP(keys.shape[1])
    flat.add(keys.numpy())
    results = {}

    def ours():
        results["ours"] = nearest(queries, keys, k)

    def theirs():
        results["theirs"] = tuple(torch.from_numpy(item) for item in flat.search(queries.numpy(), k))

    ours(), theirs()
    seconds = in_turn({"ours": ours, "faiss": theirs}, rounds)
    (scores, index), (expected, neighbours) = results["ours"], results["theirs"]
    same(float((scores - expected).abs().max()), 1e-5, "scores of the neighbours")
    alike = float((index == neighbours).float().mean())
    same(1 - alike, 1e-3, "neighbours (keys whose scores are equal to the last digit change places)")
    return {
        "search_seconds": round(statistics.median(seconds["ours"]), 3),
        "faiss_seconds": round(statistics.median(seconds["faiss"]), 3),
        "ours / faiss, target 1": ratio(seconds["ours"], seconds["faiss"]),
        "same_neighbours": alike,
    }


def large_bank(queries, keys):
    began = time.perf_counter()
    scores, index = nearest(queries, keys, 30)
    seconds = time.perf_counter() - began
    # of some queries: the scores are those of their keys, and no key of a block is above the last of them
    some, block = queries[:8], keys[: 1 << 18].float()
    apart = torch.einsum("qc,qkc->qk", some, keys[index[:8]].float()) - scores[:8]
    same(float(apart.abs().max()), 1e-4, "scores")
    above = (some @ block.T > scores[:8, -1:] + 1e-4).sum(1)
    same(float((above - (index[:8] < len(block)).sum(1)).max()), 0, "keys above the last neighbour")
    return {"search_seconds": round(seconds, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--images", type=int, default=20, help="from which a bank is built")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", help="keep the bank in files there")
    args = parse(parser, rows=10_000, dim=32, queries=100, images=1, rounds=1)
    draw = torch.Generator().manual_seed(0)
    queries = functional.normalize(torch.randn(args.queries, args.dim, generator=draw), dim=1)
    large = args.rows > 1_000_000
    bank, each = Bank(args.rows, torch.float16 if large else torch.float32, folder=args.folder), 10_000
    began = time.perf_counter()
    for _ in range(args.rows // each):
        bank.add(torch.randn(each, args.dim, generator=draw), torch.rand(each, args.classes, generator=draw))
    keys, _ = bank.whole()
    facts = {"bank_seconds": round(time.perf_counter() - began, 1), "rows": len(keys)}
    if large:
        facts |= large_bank(queries, keys)
    else:
        facts |= against_faiss(queries, keys, args.rounds) | building(args.images, args.rounds)
    facts["peak_memory_mb"] = round(peak_mb())
    print(json.dumps({**vars(args), **facts, "machine": machine()}, indent=1))


if __name__ == "__main__":
    main()
