"""Full-resolution features: time and peak memory of models and upsamplers, from the image, and of the decoder alone.

    python benchmarks/speed.py [--sizes 448 1024] [--rounds 2] [--only lila-lite0 dpt] [--by float32 onnx]

ViT-S/14 and its decoders have random weights, on which neither depends; `lila-lite0` is as trained, and also runs on a
frame of 480 x 854. `maxa` has the 32 channels of its default; `featup` and `uplift` raise the map 16 times, whatever
size is asked for, and then resize. Those of this library also run in bfloat16, by torch.compile (inductor) and as an
ONNX file; the same pixels must come out. "reuse" is with MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ at 1 GB: the
C library of Linux then keeps freed memory for the next image.

Each row and round has a process of its own, and rounds are in turns: float32 of every model, bfloat16 of every model
..., then again. A time is the least of all, by the clock and in seconds of the processors, in which other programs on
the machine show less. "adds" is what a forward adds at its peak, beside weights and image, in a process that gives
freed memory back at once; "process" is all that this process holds then. A row that would hold more than --gigabytes,
or whose process takes more than --seconds of the processors, is left out, and the reason printed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import in_process, machine, parse, peak_mb_since, reset_peak, same

from dense_ctx.visualize import text_table

OURS = ("upsample", "dpt", "maxa", "lila-lite0")
NAMES = (*OURS, "anyup", "naf", "jafar", "featup", "loftup", "uplift")
ENGINES = {  # and how far from float32's values
    "float32": 0.0, "float32-reuse": 1e-5, "bfloat16": 0.1, "bfloat16-reuse": 0.1, "compiled": 1e-3, "onnx": 1e-4,
}  # fmt: skip
FRAME = (480, 854)
SMALL_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
REUSE = dict.fromkeys(SMALL_BLOCKS, str(1 << 30))
FORWARDS = 3  # of a round
Size = tuple[int, int]


def model_of(name: str, size: Size, engine: str) -> Any:
    import torch

    from dense_ctx import AutoDenseModel, DenseModel, registry

    torch.manual_seed(0)
    dtype = torch.bfloat16 if engine.startswith("bfloat16") else None
    if name == "lila-lite0":
        return AutoDenseModel.from_pretrained(name, dtype=dtype)
    lattice = {"size": tuple(side // 8 * 8 for side in size)}
    args: dict[str, Any] = {"upsample": {"layers": [-1]}, "maxa": lattice}.get(name, {})
    backbone = registry().create("backbone", "dinov2-s14", weights=None)
    decoder = registry().create("decoder", name, dims=backbone.dims, strides=backbone.strides, **args)
    return DenseModel(backbone, decoder).to(dtype=dtype)


def export(name: str, size: Size, path: Path) -> str:
    """Write the ONNX file; why it cannot be."""
    try:
        model_of(name, size, "onnx").export(path, size=size if name == "maxa" else "dynamic")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def calls(name: str, engine: str, size: Size, file: Path, gigabytes: float) -> dict[str, Callable[[], Any]]:
    """The whole, which returns pixels, and the decoder alone, where it can be called alone."""
    import torch

    from dense_ctx.tiling.footprint import forward_bytes

    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    if engine == "onnx":
        from dense_ctx_runtime import OnnxModel

        session, array = OnnxModel(file), image[0].permute(1, 2, 0).numpy()
        return {"whole": lambda: torch.from_numpy(session(array).pixels)}
    model = model_of(name, size, engine)
    if (needed := forward_bytes(model, 1, size, size) / 1e9) > gigabytes:
        raise MemoryError(f"a forward would hold {needed:.1f} GB, more than {gigabytes:g}")
    if engine == "compiled":
        graph = torch.compile(model.eval(), fullgraph=True)
        return {"whole": lambda: graph(image).pixels}
    features, padded = model.encode(image)
    return {"whole": lambda: model(image).pixels, "decoder": lambda: model.decode(features, padded, size)}


def measure(name: str, engine: str, size: Size, file: Path, gigabytes: float, forwards: int) -> dict[str, Any]:
    """Least seconds (clock, processors) of each part, MB, and some pixels; `reason` where it cannot be."""
    import torch

    result: dict[str, Any] = {}
    try:
        with torch.inference_mode():
            parts = calls(name, engine, size, file, gigabytes)
            pixels = parts["whole"]()
            result["channels"] = pixels.shape[1]
            result["values"] = pixels[0, :, :: size[0] // 7, :: size[1] // 7].float().clone().numpy()
            del pixels
            before = reset_peak()
            parts["whole"]()
            result["adds"], result["process"] = peak_mb_since() - before, peak_mb_since()
            for part, work in parts.items():
                times = []
                for _ in range(forwards):
                    began, busy = time.perf_counter(), time.process_time()
                    work()
                    times.append((time.perf_counter() - began, time.process_time() - busy))
                result[part] = [min(column) for column in zip(*times, strict=True)]
    except Exception as error:  # a row alone is left out, with the reason
        return {"reason": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    return result


def merged(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """The least seconds of two rounds; the memory of the first, which measured that alone."""
    if old is None or "reason" in new:
        return new
    least = {
        part: [min(pair) for pair in zip(old.get(part, new[part]), new[part], strict=True)]
        for part in ("whole", "decoder")
        if part in new
    }
    return {**old, **least}


class Table:
    """Rows by size, model and engine; those that were left out have their reason."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder, self.rows = args, folder, dict[tuple[Size, str, str], dict[str, Any]]()

    def round(self, memory: bool) -> None:
        for engine in self.args.by:
            for size in self.args.sizes:
                for name in self.args.only:
                    if (engine == "float32" or name in OURS) and (size != FRAME or name == "lila-lite0"):
                        self.row((size, name, engine), memory)

    def row(self, key: tuple[Size, str, str], memory: bool) -> None:
        old = self.rows.get(key)
        if old is not None and "reason" in old:
            return
        size, name, engine = key
        file = self.folder / f"{name}-{size if name == 'maxa' else ''}.onnx"
        seconds = self.args.seconds * (3 if engine == "compiled" else 1)  # the compiler's among them
        reason = self.slow(key)
        if not reason and engine == "onnx" and not file.exists():
            exported = in_process(export, name, size, file, seconds=3 * seconds)
            reason = f"the export takes over {3 * seconds} CPU s" if exported is None else exported
        if not reason:
            os.environ.update(REUSE if engine.endswith("reuse") else SMALL_BLOCKS if memory else {})
            forwards = 1 if memory else FORWARDS
            new = in_process(measure, name, engine, size, file, self.args.gigabytes, forwards, seconds=seconds)
            for variable in SMALL_BLOCKS:
                os.environ.pop(variable, None)
            if new is not None and memory and "reason" not in new:
                new["estimate"] = new.pop("whole")[1]
                new.pop("decoder", None)
            reason = f"takes over {seconds} CPU s" if new is None else new.get("reason", "")
        if reason:
            print(f"left out: {size[0]} x {size[1]} {name} {engine}: {reason}", flush=True)
        self.rows[key] = {"reason": reason} if reason else merged(old, new)
        if not reason:
            self.agree(key)
            print(*self.line(key), flush=True)

    def slow(self, key: tuple[Size, str, str]) -> str:
        """Why it is not tried: by the time that fewer pixels took."""
        size, name, engine = key
        for (other, *rest), row in self.rows.items():
            pixels = size[0] * size[1] / (other[0] * other[1])
            if rest == [name, engine] and pixels > 1 and "estimate" in row:
                # a first forward, one for memory, and those of a round, the decoder's among them
                expected = row["estimate"] * pixels * (2 + 2 * FORWARDS)
                if expected > self.args.seconds:
                    return f"a round would take about {expected:.0f} CPU s, by that at {other[0]} x {other[1]}"
        return ""

    def agree(self, key: tuple[Size, str, str]) -> None:
        size, name, engine = key
        exact = self.rows.get((size, name, "float32"), {}).get("values")
        if exact is not None and engine != "float32":
            error = float(abs(self.rows[key]["values"] - exact).max() / abs(exact).max())
            same(error, ENGINES[engine], f"{size[0]} x {size[1]} {name}, {engine} and float32")

    def line(self, key: tuple[Size, str, str]) -> list[str]:
        size, name, engine = key
        row = self.rows[key]
        if "reason" in row:
            return [f"{size[0]} x {size[1]}", name, engine, "left out", *["-"] * 5, "-"]
        parts = [row.get("whole"), row.get("decoder")]
        times = [f"{value * 1e3:.0f}" for pair in parts if pair for value in pair] + ["-", "-"] * parts.count(None)
        memory = [f"{row[kind]:,.0f}" for kind in ("adds", "process")]
        return [f"{size[0]} x {size[1]}", name, engine, *times, *memory, str(row["channels"])]


def size_of(text: str) -> Size:
    sides = [int(side) for side in text.split("x")]
    return sides[0], sides[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [(448, 448), FRAME, (1024, 1024)]
    parser.add_argument(
        "--sizes", type=size_of, nargs="+", default=sizes, metavar="N or HxW", help="from small to large"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--times", action="store_true", help="no round for memory, which is then that of the others")
    parser.add_argument("--only", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--by", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--seconds", type=int, default=300, help="of the processors, for a row in a round")
    parser.add_argument("--gigabytes", type=float, default=5.0, help="that a forward may hold")
    args = parse(
        parser, sizes=[(56, 56)], rounds=1, only=["upsample", "lila-lite0"], by=["float32", "bfloat16", "onnx"]
    )
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # a later round does not compile again
        table = Table(args, Path(folder))
        if not args.times:
            table.round(memory=True)
        for _ in range(args.rounds):
            table.round(memory=False)
    heads = [
        "pixels",
        "model",
        "by",
        "whole, ms",
        "CPU ms",
        "decoder, ms",
        "CPU ms",
        "adds, MB",
        "process, MB",
        "channels",
    ]
    keys = sorted(table.rows, key=lambda key: (key[0], NAMES.index(key[1]), list(ENGINES).index(key[2])))
    print(f"\n{machine()}, {args.rounds} rounds, {(time.time() - began) / 60:.0f} minutes")
    print(f"\n{text_table([heads, *map(table.line, keys)])}")


if __name__ == "__main__":
    main()
