"""Put a trained model into a plugin's package, so that it opens by its short name without a network.

    python benchmarks/bundle.py runs/lila-lite0/model plugins/dense_ctx_lila/models/lila-lite0 \
        --command "python examples/train_lila.py --config ..." --data "20 short clips" --results results/*/result.json

The decoder is stored in float16; what was written is opened again, and its features are those of the rounded weights.
The card says what it was trained on, for how long, where, and what was measured.
"""

import argparse
import json
from pathlib import Path

import torch
from common import machine, parse, same

from dense_ctx import AutoDenseModel


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the folder that training wrote")
    parser.add_argument("out", type=Path)
    parser.add_argument("--command", required=True, help="that trained it")
    parser.add_argument("--data", required=True, help="what it was trained on, in words")
    parser.add_argument("--results", nargs="*", type=Path, default=[], help="result.json files for the card")
    parser.add_argument("--license", default="other")
    parser.add_argument("--side", type=int, default=480, help="of the picture whose features are compared")
    args = parse(parser, side=64)
    log = [json.loads(line) for line in (args.model.parent / "log.jsonl").read_text().splitlines()]
    seconds = max(row["seconds"] for row in log if "seconds" in row)
    model = AutoDenseModel.from_pretrained(args.model)
    told = dict(model.model_config.trained_with)
    config = {key: value for key, value in told.pop("config").items() if key not in ("data", "out")}
    told |= {"data": args.data, "command": args.command, "seconds": round(seconds), "machine": machine()}
    rows = []
    for path in args.results:
        result = json.loads(path.read_text())
        protocol = result["protocol"]
        changed = f" {' '.join(protocol['overrides'])}" if protocol["overrides"] else ""
        command = f"dense-ctx evaluate {args.out.name} --protocol {protocol['id']} --data ROOT{changed}"
        samples = f"on {result['data']['samples']} samples"
        rows.append({
            "name": f"{result['protocol_id']}, {result['metric']}, {samples}",
            "value": round(result["value"], 4),
            "command": command,
        })  # fmt: skip
    folder = model.save_pretrained(
        args.out,
        dtype=torch.float16,
        trained_with={**told, "config": config},
        metrics=rows,
        license=args.license,
    )
    for value in model.decoder.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.half())
    image = torch.rand(1, 3, args.side, args.side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        reference, output = model(image).pixels, AutoDenseModel.from_pretrained(folder)(image).pixels
    same(float((reference - output).abs().max()), 1e-5, "the model and its bundle")
    print(f"{folder}: {sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
