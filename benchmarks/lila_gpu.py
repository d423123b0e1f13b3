"""The second half of `lila_step.py`: whole steps without a clock inside, against the published time of a step.

The paper trains ViT-B/14 at 224 px and batch 32 for 30 000 steps in about 24 h on one A100-40GB: 2.88 s a step, data
and cues included. Here the networks have random weights, which cost what trained ones do. The batch is made beforehand,
as data workers do, and how long one worker takes for it is printed beside: the number of workers that keep up.
"""

import tempfile
import time
from pathlib import Path

import torch
from dense_ctx_lila.cue_cache import plan_cues
from dense_ctx_lila.objective import LilaObjective
from torch.utils.flop_counter import FlopCounterMode

from dense_ctx import AutoDenseModel
from dense_ctx.train import TrainStep
from dense_ctx.visualize import text_table as table

PUBLISHED = 24 * 3600 / 30_000
# dense bfloat16 TFLOP/s of the makers' data sheets, by a word of the device's name
PEAKS = {"H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "RTX 4090": 165, "V100": 125}


def published(args):
    """Print a table of two steps, and the heaviest operations of the second where --profile asks for them."""
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    peak = args.peak or next((value for word, value in PEAKS.items() if word in name), None)
    lines = [["cues", "s a step", "images/s", "TFLOP a step", "TFLOP/s", "share of peak", "memory, MB", "worker's s"]]
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cues"
        side = LilaObjective(cues=["features"]).sampling.cue_side
        plan_cues([Path(args.clips)], args.cues, cache, size=side, device=args.device).run()
        for label, settings in (("from a cache", {"cue_cache": str(cache)}), ("online", {})):
            seconds, flops, memory, worker = whole_step(args, ["features", *args.cues], settings)
            rate = flops / seconds / 1e12
            share = f"{100 * rate / peak:.1f} %" if peak and args.precision == "bf16" else "-"
            lines.append(
                [label, f"{seconds:.3f}", f"{2 * args.batch / seconds:.1f}", f"{flops / 1e12:.2f}", f"{rate:.2f}",
                 share, f"{memory:.0f}" if memory else "-", f"{worker:.2f}"]
            )  # fmt: skip
    print(table(lines))
    print(f"\n{name}; published: {PUBLISHED:.2f} s a step (ViT-B/14, 224 px, batch 32, A100-40GB), {args.cues=}")
    print("TFLOP: matrix products and convolutions, forward and backward, without PAMR and our loss in one pass")


def whole_step(args, cues, settings):
    """Seconds and FLOP of a step, peak memory in MB (accelerator only), seconds a worker needs for its batch."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    model = AutoDenseModel.from_parts(
        args.backbone, "dpt", backbone_args={"weights": None}, decoder_args={"dim": args.dim}
    )
    objective = LilaObjective(cues=cues, sampling={"size": args.size}, **settings)
    data = objective.dataset(args.clips)
    step = TrainStep(model, objective, data).to(device).train()
    optimizer = torch.optim.AdamW(step.groups, lr=1e-4, weight_decay=1e-5, foreach=True)
    data.sample(0, 0)
    began = time.perf_counter()
    batch = objective.collate([data.sample(i % len(data), i) for i in range(args.batch)])
    worker = time.perf_counter() - began

    def once():
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16"):
            total = step(batch).total
        total.backward()
        optimizer.step()
        return total

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()

    with FlopCounterMode(display=False) as counter:
        once()
    once()
    wait()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for _ in range(args.rounds):
        once()
    wait()
    seconds = (time.perf_counter() - began) / args.rounds
    memory = torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else 0.0
    if args.profile:
        with torch.profiler.profile() as profile:
            once()
            wait()
        order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
        print(profile.key_averages().table(sort_by=order, row_limit=args.profile))
    return seconds, counter.get_total_flops(), memory, worker
