"""SIGINT and SIGTERM in every long verb: it says what is kept, leaves nothing half-written, and ends by 130 or 143."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_data import camvid, clip, rgbd, save, scene
from tiny_datasets import labels

from dense_ctx import cli
from dense_ctx.commands.plugins import Plugins

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
MODEL = ["--model", "rgb-xy"]
TRAIN = """
out: {out}
steps: 400
batch_size: 2
model: rgb-xy+linear(dim=1)
objective: {{name: maxa-depth}}
data: {{name: rgbd-folder, root: {root}}}
save: {{every: 10}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Data for every verb, enough of it that a signal finds it at work."""
    root = tmp_path_factory.mktemp("data")
    camvid(root / "camvid", train=30, val=40)
    rgbd(root / "rgbd", frames=40)
    for index in range(40):
        save(root / "pictures" / f"{index:02d}.png", scene(index, (48, 72))[0])
    for name in ("one", "two", "three"):
        for index, (picture, label) in enumerate(clip(40, size=(32, 48))):
            save(root / "clips" / name / f"{index:05d}.png", picture)
            if index == 0:
                labels(root / f"{name}.png", label)
    labels(root / "mask.png", scene(0, (48, 72))[1])
    return root


def argv(verb, root, out):
    """The command line of a verb; `out` is a folder of its own."""
    pictures = [str(path) for path in sorted((root / "pictures").iterdir())]
    if verb == "train":
        out.mkdir(parents=True, exist_ok=True)
        config = out / "run.yaml"
        config.write_text(TRAIN.format(out=out / "run", root=root / "rgbd"))
        return ["train", str(config)]
    if verb == "measure":
        pairs = [f"{picture}:{root / 'mask.png'}" for picture in pictures]
        return ["measure", "rgb-xy", "--pairs", *pairs, "--json", str(out / "measured.json"), "--device", "cpu"]
    words = {
        "evaluate": ["rgb-xy", "--protocol", "camvid-linear-grid4-v2", "--data", str(root / "camvid")],
        "bench": ["--backbones", "rgb-xy", "--heads", "linear", "--steps", "200", "--size", "16", "24",
                  "--image-size", "12", "18", "--batch", "2", "--no-cache", "--seeds", "0", "1",
                  "--tasks", f"maxa-depth(name=rgbd-folder, root={root / 'rgbd'})"],
        "pseudo-label": [str(root / "pictures"), *MODEL, "--segmenter", "slic(segments=12)", "side=48", "classes=8"],
        "features": ["rgb-xy", *pictures],
        "track": [str(root / "clips" / "one"), "--mask", str(root / "one.png"), *MODEL],
        "predict": ["--frames", "--support", f"{pictures[0]}:{root / 'mask.png'}", "--query", *pictures[1:],
                    str(root / "clips" / "one"), *MODEL],
        "cues": [str(root / "clips"), "--cues", "flow:dis", "--gaps", "1", "2"],
        "datasets": ["camvid", str(root / "camvid"), "--picture", str(out / "sample.png")],
    }  # fmt: skip
    return [verb, *words[verb], *([] if verb == "datasets" else ["--out", str(out)])]


KEPT = {  # what the last line says
    "train": "saved in|the last saved state stays",
    "evaluate": "finished clips and shards of images are in",
    "bench": "finished cells|saved in",
    "pseudo-label": "finished files are in",
    "features": "finished images are in",
    "track": "masks of finished frames are in",
    "predict": "finished predictions are in",
    "measure": "nothing was written",
    "cues": "finished clips are in",
    "datasets": "nothing was written",
}
GO_ON = ("predict", "train", "evaluate", "bench", "pseudo-label", "cues")  # the same command goes on


def host(cases):
    """Exit statuses of the cases."""
    words = [sys.executable, str(Path(__file__).parent / "signal_host.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, input=json.dumps(cases), env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.rpartition("STATUS")[2])


def stopped(data, tmp_path, plan, resume=False):
    """Send the signals; how many verbs ended as they should, and those that did not."""
    cases = []
    for index, (verb, number, delay) in enumerate(plan):
        folder = tmp_path / f"{index}-{verb}"
        folder.mkdir()
        words = argv(verb, data, folder / "out")
        cases.append({"argv": words, "signal": number, "delay": delay, "log": str(folder / "log")})
    faults = []
    for (verb, number, delay), case, status in zip(plan, cases, host(cases), strict=True):
        text = Path(case["log"]).read_text()
        about = f"{verb}, signal {number} after {delay:.2f} s: "
        if status != 128 + number:
            faults.append(f"{about}status {status}: {text[-600:]}")
        elif not any(words in text.splitlines()[-1] for words in KEPT[verb].split("|")) or "Traceback" in text:
            faults.append(f"{about}{text[-600:]}")
        partial = [path for path in Path(case["log"]).parent.rglob("*partial*") if "dense_ctx" not in str(path.name)]
        if partial:
            faults.append(f"{about}left {partial}")
    if resume:
        again = [{**case, "signal": 0, "log": case["log"] + "2"} for (verb, *_), case in zip(plan, cases, strict=True)
                 if verb in GO_ON]  # fmt: skip
        for case, status in zip(again, host(again), strict=True):
            if status != 0:
                faults.append(f"{case['argv'][0]} does not go on: {Path(case['log']).read_text()[-600:]}")
    return len(plan) - len(faults), faults


def test_a_few_verbs_say_what_is_kept(data, tmp_path):
    plan = [("features", signal.SIGINT, 0.1), ("evaluate", signal.SIGTERM, 0.2), ("datasets", signal.SIGINT, 0.05),
            ("train", signal.SIGTERM, 0.3), ("track", signal.SIGTERM, 0.2)]  # fmt: skip
    ended, faults = stopped(data, tmp_path, plan)
    assert not faults, "\n\n".join(faults)
    assert ended == 5


@pytest.mark.faults
def test_every_long_verb_forty_times(data, tmp_path):
    draw = random.Random(0)
    plan = [(verb, number, draw.uniform(0, high)) for verb in KEPT for number in (signal.SIGINT, signal.SIGTERM)
            for high in (0.05, 0.6)]  # fmt: skip
    ended, faults = stopped(data, tmp_path, plan, resume=True)
    print(f"{ended} of {len(plan)}")
    assert not faults, "\n\n".join(faults)
    assert ended == len(plan) == 40


def test_the_process_has_the_status(data, tmp_path):
    """Of the installed command, not of a call."""
    words = [sys.executable, "-m", "dense_ctx.cli", *argv("features", data, tmp_path / "out")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not list((tmp_path / "out").glob("*.safetensors")):
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate()
    if process.returncode != 0:  # a quick machine may have finished
        assert process.returncode == 143
        assert error.splitlines()[-1] == f"stopped by SIGTERM: the files of finished images are in {tmp_path / 'out'}"


def test_handlers_are_put_back(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def send(self, args):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Plugins, "run", send)
    assert cli.main(["plugins"]) == 143
    assert capsys.readouterr().err == "\nstopped by SIGTERM: nothing was written\n"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
