"""The Hub under trouble, and no Hub at all: downloads go on where they can, and end soon where they cannot."""

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import time

import pytest
from hubserver import serving

from dense_ctx.persistence.transfer import persevere

BIG = random.Random(0).randbytes(3_000_000)  # several reads of the client

# Children of one process: each fetches through the same cache, at once
FETCH = """
import json, os, sys, time
import huggingface_hub.errors
from huggingface_hub import snapshot_download
from dense_ctx.persistence.hub import Access, fetch
children, cache = int(sys.argv[1]), sys.argv[2]
pids, begun = [], time.time()
for number in range(children):
    pid = os.fork()
    if pid == 0:
        try:
            folder = fetch("me/big", "me/big", ["config.json", "model.safetensors"], Access(cache_dir=cache))
            said = str(folder)
        except BaseException as error:
            said = f"{type(error).__module__}.{type(error).__name__}: {error}"
        with open(f"{cache}.{number}", "w") as file:
            json.dump([said, time.time() - begun], file)
        os._exit(0)
    pids.append(pid)
for pid in pids:
    os.waitpid(pid, 0)
"""


def environment(home, address):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    return {**clean, "HF_HOME": str(home), "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # fmt: skip


def trouble(tmp_path, number, children):
    """One round; how often it failed, by kind."""
    with serving() as (hub, address):
        hub.create("me/big")
        hub.commit("me/big", "main", {"config.json": b"{}", "model.safetensors": BIG})
        hub.trouble = random.Random(number)
        cache = tmp_path / f"cache-{number}"
        words = [sys.executable, "-c", FETCH, str(children), str(cache)]
        done = subprocess.run(words, env=environment(tmp_path, address), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
    for child in range(children):
        folder, seconds = json.loads((tmp_path / f"cache-{number}.{child}").read_text())
        assert os.path.isdir(folder), folder
        assert seconds < 60
        with open(f"{folder}/model.safetensors", "rb") as file:
            assert file.read() == BIG
    blobs = [path for path in cache.glob("models--me--big/blobs/*") if path.stat().st_size > 1000]
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in blobs] == [hashlib.sha256(BIG).hexdigest()]
    assert sum(hub.failed.values()) > 0
    return hub.failed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_two_processes_fetch_through_trouble(tmp_path):
    trouble(tmp_path, 5, 2)


@pytest.mark.faults
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_six_rounds_of_eight_processes(tmp_path):
    total = {"dropped": 0, "cut": 0, "busy": 0}
    for number in range(6):
        for kind, count in trouble(tmp_path, number, 8).items():
            total[kind] += count
    print(f"6 of 6 rounds, 48 of 48 processes; {total}")
    assert min(total.values()) >= 10


MISSING = """
import sys, time, json
import torch, transformers, timm
import dense_ctx_backbones.hf_backbone, dense_ctx_probes.text_encoders, huggingface_hub
from dense_ctx import AutoDenseModel, create_backbone
from dense_ctx_probes.text import embed_text
report = {}
transformers.CLIPTextModelWithProjection, transformers.AutoTokenizer, transformers.AutoConfig
for name, work in {
    "hf": lambda: create_backbone("hf:me/never"),
    "model": lambda: AutoDenseModel.from_pretrained("me/never"),
    "text": lambda: embed_text(["cat"], "me/never"),
    "timm": lambda: create_backbone("timm:vit_tiny_patch16_224"),
}.items():
    begun = time.monotonic()
    try:
        work()
        report[name] = ["opened", 0]
    except Exception as error:
        report[name] = [f"{type(error).__name__}: {error}", time.monotonic() - begun]
print("REPORT" + json.dumps(report))
"""


@pytest.mark.parametrize("how", ["no server", pytest.param("HF_HUB_OFFLINE", marks=pytest.mark.faults)])
def test_without_a_network_what_is_missing_fails_at_once(tmp_path, how):
    with socket.socket() as closed:  # a port that nobody listens on
        closed.bind(("127.0.0.1", 0))
        settings = environment(tmp_path / "home", f"http://127.0.0.1:{closed.getsockname()[1]}")
        if how == "HF_HUB_OFFLINE":
            settings["HF_HUB_OFFLINE"] = "1"
        done = subprocess.run([sys.executable, "-c", MISSING], env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.rpartition("REPORT")[2])
    for name, (message, seconds) in report.items():
        assert message.startswith("WeightsError: "), message
        assert seconds < (2 if name != "timm" else 3), (name, seconds)
        assert ("timm/vit_tiny" if name == "timm" else "me/never") in message
        assert str(tmp_path / "home") in message
        assert "HF_HOME" in message
        assert how != "HF_HUB_OFFLINE" or "HF_HUB_OFFLINE is set" in message
        assert "\n" not in message


class ConnectError(Exception):
    pass


class RemoteProtocolError(type("ProtocolError", (Exception,), {})):
    pass


def test_what_is_tried_again(monkeypatch):
    waits, calls = [], []
    monkeypatch.setattr(time, "sleep", waits.append)

    def failing(error, times):
        calls.clear()

        def work():
            calls.append(1)
            if len(calls) <= times:
                raise error
            return "there"

        return work

    assert persevere(failing(RemoteProtocolError(), 7)) == "there"
    assert [0.25 * 2**n / 2 <= wait <= min(0.25 * 2**n, 4) * 1.5 for n, wait in enumerate(waits[:5])] == [True] * 5
    assert max(waits) <= 6
    assert persevere(failing(ConnectError(), 1)) == "there"
    with pytest.raises(ConnectError):
        persevere(failing(ConnectError(), 2))  # nobody answers
    for error in (KeyError("a bug"), FileNotFoundError("no such file"), ValueError("not a name")):
        with pytest.raises(type(error)):
            persevere(failing(error, 1))
        assert len(calls) == 1
    offline = type("OfflineModeIsEnabled", (ConnectionError,), {})()
    with pytest.raises(ConnectionError):
        persevere(failing(offline, 1))
    busy = OSError("503")
    busy.response = type("Response", (), {"status_code": 503})
    assert persevere(failing(busy, 3)) == "there"
    with pytest.raises(RemoteProtocolError):
        persevere(failing(RemoteProtocolError(), 10**9), budget=0.1)
