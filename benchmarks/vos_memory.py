"""Memory of following objects through a clip: one propagation step at 480 x 1152, and whole clips of two lengths.

    python benchmarks/vos_memory.py [--dim 384]

Each case runs in a process of its own. The step's figure counts the context's features, which the propagator holds;
the clips' figures are what `track` adds to a process that has its model and has seen one frame.
"""

from __future__ import annotations

import argparse

from common import in_process, machine, parse, peak_mb_since, reset_peak

HEIGHT, WIDTH, STRIDE, CONTEXT = 480, 1152, 8, 8


def step(dim: int, size: tuple[int, int]) -> tuple[float, str]:
    """What a propagator with a full context adds, at its largest."""
    import torch
    from dense_ctx_probes.local_knn import Propagator

    height, width = size[0] // STRIDE, size[1] // STRIDE
    generator = torch.Generator().manual_seed(0)
    frame = torch.randn(dim, height, width, generator=generator)
    labels = torch.rand(2, height, width, generator=generator)
    torch.nn.functional.normalize(frame, dim=0).matmul(torch.ones(width, 1))  # libraries are loaded
    before = reset_peak()
    propagator = Propagator(frame, labels, n_last_frames=CONTEXT - 1)
    for _ in range(CONTEXT + 1):
        propagator.step(frame + 0.1 * torch.randn(frame.shape, generator=generator))
    return peak_mb_since() - before, f"{height} x {width} cells, {dim} channels, {CONTEXT} context frames"


def clip(frames: int, size: tuple[int, int]) -> tuple[float, str]:
    """What `track` adds over a clip of so many frames, each made when it is asked for."""
    import torch
    from dense_ctx_predict import track

    from dense_ctx import AutoDenseModel

    model = AutoDenseModel.from_parts("rgb-xy", "upsample")
    mask = torch.zeros(size, dtype=torch.int64)
    mask[size[0] // 5 : size[0] // 2, size[1] // 5 : size[1] // 2] = 1

    def video(count: int):  # type: ignore[no-untyped-def]
        for number in range(count):
            yield torch.rand(3, *size, generator=torch.Generator().manual_seed(number))

    for _ in track(model, video(2), mask):
        pass
    before = reset_peak()
    length = sum(1 for _ in track(model, video(frames), mask))
    return peak_mb_since() - before, f"{length} frames of {size[0]} x {size[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--size", nargs=2, type=int, default=[HEIGHT, WIDTH], metavar=("H", "W"))
    args = parse(parser, dim=16, size=[96, 160])
    size = (args.size[0], args.size[1])
    print(machine())
    added, what = in_process(step, args.dim, size)
    print(f"propagation  {added:7.0f} MB  {what}", flush=True)
    clips = []
    for frames in (20, 60):
        found, what = in_process(clip, frames, size)
        clips.append(found)
        print(f"track        {found:7.0f} MB  {what}", flush=True)
    if added >= 2000:
        raise SystemExit(f"propagation adds {added:.0f} MB; under 2000 are promised")
    if clips[1] > 1.1 * clips[0] + 20:
        raise SystemExit("memory grows with the clip")


if __name__ == "__main__":
    main()
