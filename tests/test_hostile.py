"""Hostile folders: each a typed error, quick, light, without running or asking anything. `-m faults` runs all kinds."""

import builtins
import os
import sys
import time

import pytest
import torch
from dense_ctx_predict.context_files import load_context, save_context
from hostile_folders import context_kinds, kinds, make, state_kinds
from train_parts import config, install

from dense_ctx import AutoDenseModel, InContext, create_backbone
from dense_ctx.errors import DenseCtxError
from dense_ctx.testing import tiny_model
from dense_ctx.train import state, train

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes and devices are POSIX's")
resource = pytest.importorskip("resource")

SECONDS, BYTES = 1.0, 200 << 20  # of the processor, so that a busy machine is no fault; of memory
WAIT = 20.0  # of the clock: what waits for a pipe or a network waits for ever
REAL = {"backbone_digest is other": 3.0}  # seen no earlier than the backbone's own weights are there
KINDS = {"model": kinds(), "context": context_kinds(), "state": state_kinds()}
ALL = [(family, name) for family, names in KINDS.items() for name in names]
# started processes, opened connections, what a pickle asks for
WATCHED = (
    "subprocess.Popen",
    "os.exec",
    "os.system",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
    "socket.getaddrinfo",
)
EVENTS = None


def _watch(event, arguments):
    if EVENTS is not None and event in WATCHED:
        EVENTS.append((event, str(arguments)[:100]))


sys.addaudithook(_watch)


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """A good folder of each family, and what opens one."""
    place = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "1")
        install(place / "site", patch)
        train(config(place / "run"))
        model = tiny_model()
        mask = torch.arange(16 * 24).view(16, 24) // 200
        context = save_context(InContext(model).fit(torch.rand(3, 16, 24), mask), place / "context")

        def go_on(folder):
            train(config(folder.parent / "run", steps=8, resume=str(folder)))

        yield {
            "model": (good_model(tmp_path_factory), AutoDenseModel.from_pretrained),
            "context": (context, lambda folder: load_context(folder, model)),
            "state": (state.newest(place / "run"), go_on),
        }


def good_model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("good") / "m"
    model = AutoDenseModel.from_parts("efficientnet-lite0", "dpt", decoder_args={"dim": 5, "width": 6})
    model.save_pretrained(folder)
    AutoDenseModel.from_pretrained(folder)
    # what the first model of each library imports is not the folder's doing
    create_backbone("dinov2-s14", weights=None, depth=1)
    create_backbone("lora:dinov2-s14", weights=None, args={"depth": 1})
    import transformers

    transformers.AutoModel.from_config(transformers.Dinov2Config(num_hidden_layers=1), trust_remote_code=False)
    return folder


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def attack(family, name, families, place, monkeypatch):
    """What is wrong with the answer to one kind; "" if nothing is."""
    global EVENTS
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("asked on standard input"))
    good, reopen = families[family]
    folder = make(name, KINDS[family][name], good, place / "m")
    monkeypatch.chdir(folder)
    before, EVENTS = peak(), []
    start, clock = time.process_time(), time.perf_counter()
    try:
        reopen(folder)
        answer = "opened"
    except DenseCtxError as error:
        text = str(error)
        answer = "" if len(text) < 3000 and "\n" not in text else f"a message of {len(text)} letters: {text[:200]!r}"
    except BaseException as error:
        answer = f"{type(error).__name__}: {error!s:.200}"
    seconds, memory, events, EVENTS = time.process_time() - start, peak() - before, EVENTS, None
    waited = time.perf_counter() - clock >= WAIT
    faults = [
        answer,
        f"{seconds:.1f} s" if seconds >= REAL.get(name, SECONDS) or waited else "",
        f"{memory >> 20} MB" if memory >= BYTES else "",
    ]
    faults += [f"{event}" for event in events] + (["ran code"] if list(place.rglob("ran")) else [])
    return "; ".join(fault for fault in faults if fault)


def test_there_are_at_least_200_kinds():
    print({family: len(names) for family, names in KINDS.items()})
    assert len(ALL) >= 200, len(ALL)


@pytest.mark.parametrize("family", KINDS)
def test_the_good_folder_opens(family, families, tmp_path):
    good, reopen = families[family]
    reopen(make("good", lambda folder: None, good, tmp_path / "m"))


@pytest.mark.parametrize(("family", "name"), ALL[:: len(ALL) // 60])
def test_a_hostile_folder_is_refused(family, name, families, tmp_path, monkeypatch):
    assert attack(family, name, families, tmp_path, monkeypatch) == ""


@pytest.mark.faults
@pytest.mark.parametrize(("family", "name"), ALL)
def test_every_hostile_folder_is_refused(family, name, families, tmp_path, monkeypatch):
    assert attack(family, name, families, tmp_path, monkeypatch) == ""


def test_the_watch_sees_what_a_folder_could_start():
    global EVENTS
    import subprocess

    EVENTS = []
    subprocess.run([sys.executable, "-c", ""], check=True)
    events, EVENTS = EVENTS, None
    assert any(event == "subprocess.Popen" for event, _ in events)
