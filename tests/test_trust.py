"""Each way in of docs/trust.md on local data: what it reads, writes, fetches and runs, as Python's audit events say."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import transformers
from hubserver import serving
from safetensors.torch import save
from tiny_hub import files_of, processor, text_tower, tokenizer

from dense_ctx import AutoDenseModel

HERE = Path(__file__).parent
TABLE = HERE.parent / "docs" / "trust.md"
# way in: the folders of the session, by their first names, that it may read and write
DOORS = {
    "from_pretrained": ("model", ""),
    "model: typed": ("model", ""),
    "context": ("context", ""),
    "weights": ("weights.pth", ""),
    "weights that hold code": ("evil.pth", ""),
    "convert": ("evil.pth", ""),
    "train": ("run.json run", "run"),
    "evaluate": ("davis scores", "scores"),
    "predict": ("photo.png mask.png photos masks", "masks"),
    "labels": ("coco labels", "labels"),
    "datasets": ("camvid", ""),
    "plugins": ("", ""),
    "images": ("picture.png", ""),
}
REFUSED = {"weights that hold code", "convert", "images"}
# way in over a network: the only repository of the hub on loopback that it asks, whose files go to the Hub's cache
HUB = {
    "from_pretrained of the Hub": "me/model",
    "hf: typed": "org/vit",
    "timm: typed": "timm/test_vit.r160_in1k",
    "text encoder": "org/clip",
}
DOORS |= dict.fromkeys(HUB, ("", "hf")) | {"text encoder": ("classes.txt", "hf text text.safetensors")}

CODE = r"""
import json, os, shutil, sys, tempfile
from pathlib import Path
import torch

place, tests = Path(sys.argv[1]), Path(sys.argv[2])
os.chdir(place)
sys.path[:0] = [str(tests)]
from train_parts import lay_out, settings
sys.path[:0] = lay_out(place / "site")
from evaluation_data import camvid, davis2016
from test_predict_cli import photo
from PIL import Image
from dense_ctx import AutoDenseModel, InContext, cli, create_backbone
from dense_ctx.errors import DenseCtxError
from dense_ctx.images import load
from dense_ctx.testing import tiny_model
from dense_ctx_predict.context_files import load_context, save_context

class Code:
    def __reduce__(self):
        return os.mkdir, (str(place / "ran"),)

AutoDenseModel.from_parts("rgb-xy", "dpt", decoder_args={"dim": 5, "width": 6}).save_pretrained(place / "model")
tiny = tiny_model()
save_context(InContext(tiny).fit(torch.rand(3, 16, 24), torch.arange(16 * 24).view(16, 24) // 200), place / "context")
vit = {"weights": None, "depth": 1}
torch.save(create_backbone("dinov2-s14", **vit).net.state_dict(), place / "weights.pth")
torch.save({"model": {"w": Code()}}, place / "evil.pth")
(place / "run.json").write_text(json.dumps(settings(place / "run", steps=2)))
davis2016(place / "davis")
camvid(place / "camvid")
Image.fromarray(photo(place / "photo.png")).save(place / "mask.png")
photo(place / "photos" / "x.png", 1)
shutil.copytree(tests / "labels" / "coco", place / "coco")
(place / "picture.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")

def verb(*words):
    status = cli.main([str(word) for word in words])
    if status:
        raise DenseCtxError(f"status {status}")

calls = {
    "from_pretrained": lambda: AutoDenseModel.from_pretrained(place / "model"),
    "model: typed": lambda: create_backbone(f"model:{place / 'model'}"),
    "context": lambda: load_context(place / "context", tiny),
    "weights": lambda: create_backbone("dinov2-s14", weights=str(place / "weights.pth"), depth=1),
    "weights that hold code": lambda: create_backbone("dinov2-s14", weights=str(place / "evil.pth")),
    "convert": lambda: verb("convert", "dip", "evil.pth", "--out", "converted"),
    "train": lambda: verb("train", "run.json"),
    "evaluate": lambda: verb("evaluate", "rgb-xy+upsample", "--protocol", "davis2016-ridge-grid4-v1", "--data", "davis",
                             "--out", "scores", "--device", "cpu", "--seeds", 0),
    "predict": lambda: verb("predict", "--support", "photo.png:mask.png", "--query", "photos", "--model",
                            "rgb-xy+upsample", "--device", "cpu", "--out", "masks"),
    "labels": lambda: verb("labels", "coco/instances.json", "--out", "labels", "--format", "png"),
    "datasets": lambda: verb("datasets", "camvid", "camvid", "--limit", 2),
    "plugins": lambda: verb("plugins"),
    "images": lambda: load(place / "picture.png"),
    "from_pretrained of the Hub": lambda: AutoDenseModel.from_pretrained("me/model"),
    "hf: typed": lambda: create_backbone("hf:org/vit"),
    "timm: typed": lambda: create_backbone("timm:test_vit.r160_in1k"),
    "text encoder": lambda: verb("text", "classes.txt", "--encoder", "org/clip", "--out", "text.safetensors"),
}
events = []
WRITES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
RUNS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class")
NETWORK = ("socket.connect", "socket.getaddrinfo")

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        events.append(("write" if writes else "read", os.path.abspath(os.fsdecode(arguments[0]))))
    elif event in WRITES and not isinstance(arguments[0], int):  # a file that is open has been seen
        if event not in ("os.link", "os.symlink"):
            within = arguments[1] if event in ("os.remove", "os.rmdir") and arguments[1] != -1 else None
            base = os.getcwd() if within is None else os.readlink(f"/proc/self/fd/{within}")
            events.append(("write", os.path.abspath(os.path.join(base, os.fsdecode(arguments[0])))))
        if event in ("os.link", "os.symlink", "os.rename"):
            events.append(("write", os.path.abspath(os.fsdecode(arguments[1]))))
    elif event in RUNS or event in NETWORK:
        events.append(("run" if event in RUNS else "fetch", f"{event} {arguments!r:.200}"))

sys.addaudithook(watch)
report = {}
for name, call in calls.items():
    events.clear()
    try:
        call()
        outcome = "opened"
    except DenseCtxError as error:
        outcome = f"{type(error).__name__}: {error}"
    report[name] = [outcome, sorted(set(events))]
events.clear()
import pickle
pickle.loads(pickle.dumps(Path("x")))
report["the watch itself"] = ["opened", sorted(set(events))]
print("REPORT" + json.dumps(report))
"""


def publish(hub, place):
    """A small network of each kind; each repository has code that must not run, and names another one in words."""
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    vit = transformers.Dinov2Model(transformers.Dinov2Config(**shape))
    model = AutoDenseModel.from_parts("rgb-xy", "dpt", decoder_args={"dim": 5, "width": 6})
    folder = model.save_pretrained(place / "tmp" / "published")
    words, size = tokenizer(place / "tmp")
    contents = {
        "me/model": {path.name: path.read_bytes() for path in folder.iterdir()},
        "org/vit": files_of(vit) | processor(([0.5] * 3, [0.5] * 3)),
        "timm/test_vit.r160_in1k": {"model.safetensors": save(timm.create_model("test_vit").state_dict())},
        "org/clip": files_of(text_tower(size, 8)) | files_of(words),
        "evil/repo": {},
    }
    for name, files in contents.items():
        hub.create(name)
        hub.commit(name, "main", {**files, "modeling_evil.py": b"import os; os.mkdir('ran')"})


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    place = Path(os.path.realpath(tmp_path_factory.mktemp("doors")))
    (place / "tmp").mkdir()
    (place / "classes.txt").write_text("cat\ndog\n")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HOME": str(place / "home"), "TMPDIR": str(place / "tmp"), "ACCELERATE_USE_CPU": "1"}
    with serving() as (hub, address):
        publish(hub, place)
        environment |= {"HF_ENDPOINT": address, "HF_HOME": str(place / "hf"), "HF_HUB_DISABLE_XET": "1",
                        "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip
        run = subprocess.run([sys.executable, "-B", "-c", CODE, str(place), str(HERE)], env=environment, text=True,
                             capture_output=True, timeout=240, stdin=subprocess.DEVNULL)  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    report = json.loads(run.stdout.rpartition("REPORT")[2])
    return place, report, address.rpartition(":")[2], list(hub.requests)


def outside(place, paths, allowed):
    """Paths that are neither the session's `allowed` ones nor, for reading, of the installation and the system."""
    system = [sys.prefix, sys.base_prefix, str(HERE.parent), "/proc", "/sys", "/dev", "/usr", "/lib", "/etc",
              str(place / "site"), str(place / "tmp"),
              *(path for path in sys.path if path.endswith("-packages"))]  # fmt: skip
    inside = [str(place / name) for name in allowed.split()]
    beside = [str(place / f"{dots}{name}.") for name in allowed.split() for dots in (".", "..")]  # locks, partial files
    starts = tuple(beside + [each + os.sep for each in inside + system])
    return [path for path in paths if path not in (*inside, str(place)) and not path.startswith(starts)]


@pytest.mark.parametrize("door", DOORS)
def test_way_in(session, door):
    place, report, port, _ = session
    outcome, events = report[door]
    assert (outcome == "opened") == (door not in REFUSED), outcome
    reads, writes = DOORS[door]
    for kind, allowed in (("read", f"{reads} {writes}"), ("write", writes)):
        assert outside(place, [path for what, path in events if what == kind], allowed) == [], kind
    revision = door in ("train", "evaluate")  # of a source tree: they record it
    started = [
        text
        for kind, text in events
        if kind in ("run", "fetch")
        and not (revision and "['git', 'describe'" in text)
        and "subprocess.Popen ('lscpu', ['lscpu']" not in text  # torch 2.10 asks what the processor is
        and not (door in HUB and kind == "fetch" and f"127.0.0.1', {port}" in text)
    ]
    assert started == []
    assert not (place / "ran").exists()
    assert any(path.startswith(str(place / name)) for name in reads.split()[:1] for what, path in events) or not reads


def test_over_the_network_only_the_named_repositories_are_asked(session):
    requests = session[3]
    asked = {name for name in [*HUB.values(), "evil/repo"] if any(f"/{name}/" in f"{one}/" for one in requests)}
    assert asked == set(HUB.values())
    assert [one for one in requests if not any(f"/{name}/" in f"{one}/" for name in asked)] == []
    assert [one for one in requests if one.endswith(".py") or not one.startswith(("GET", "HEAD"))] == []


def test_the_watch_sees_what_a_pickle_asks_for(session):
    assert any("pickle.find_class" in text for _, text in session[1]["the watch itself"][1])


def test_every_row_of_the_table_names_a_test_that_exists_and_every_way_in_here_has_a_row():
    rows = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    references = [re.findall(r"`(test_\w+\.py)(?:::(test_\w+)(?:\[([^`\]]+)\])?)?`", row.split("|")[6]) for row in rows]
    assert len(rows) >= 14
    assert [row for row, tests in zip(rows, references, strict=True) if not tests] == []
    every = [test for tests in references for test in tests]
    for file, function, _ in every:
        assert (HERE / file).exists(), file
        assert not function or f"def {function}(" in (HERE / file).read_text(encoding="utf-8"), (file, function)
    cases = {case for file, _, case in every if file == Path(__file__).name}
    assert cases == set(DOORS)
