"""Build the page of this folder: python examples/browser/build.py OUT, then python -m http.server -d OUT.

It needs npm, for onnxruntime-web, and dense_ctx's extra `onnx`. OUT holds all there is: any file server can serve it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from dense_ctx_export import export

from dense_ctx.model_spec import open_model

HERE = Path(__file__).parent
RUNTIME = "onnxruntime-web@1.30.0"
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def build(out: Path, model: str, height: int, width: int) -> None:
    """Write the page, the runtime and the model of one size into `out`."""
    opened = open_model(model)
    if opened.model_config is not None and opened.model_config.output is not None:
        raise SystemExit(f"{model} has a trained head; the page fits its own to features: give a model without one")
    out.mkdir(parents=True, exist_ok=True)
    for name in ("index.html", "page.css", "page.js", "model.js", "ridge.js"):
        shutil.copyfile(HERE / name, out / name)
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is not installed; it brings onnxruntime-web (https://nodejs.org)")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", RUNTIME], cwd=folder, check=True)
        source = Path(folder) / "node_modules" / "onnxruntime-web"
        (out / "ort").mkdir(exist_ok=True)
        for name in FILES:
            shutil.copyfile(source / "dist" / name, out / "ort" / name)
    export(opened, out / "model.onnx", format="onnx", size=(height, width))
    (out / "facts.json").write_text(json.dumps({"name": model, "height": height, "width": width}), encoding="utf-8")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.1f} MB. Open it with: python -m http.server -d {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    parser.add_argument("--model", default="lila-lite0", help="any model that dense-ctx opens (%(default)s)")
    parser.add_argument("--size", default="288x384", help="HxW of the images in the page (%(default)s)")
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    build(args.out, args.model, height, width)


if __name__ == "__main__":
    main()
