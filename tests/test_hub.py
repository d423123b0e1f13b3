"""Publishing to and opening from a Hub: huggingface_hub's own client against a Hub on loopback."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dense_ctx import AutoDenseModel, registry
from dense_ctx.errors import UnknownNameError, WeightsError
from dense_ctx.registry import Entry, Owner

sys.path.insert(0, str(Path(__file__).parent))

from hubserver import TOKEN, serving

ONLINE = """
import json, sys, torch
import dense_ctx.persistence.hub
from dense_ctx import AutoDenseModel
from dense_ctx.kinds import Entry, Owner

report = {}
def outcome(name, **options):
    try:
        AutoDenseModel.from_pretrained(name, **options)
        return "opened"
    except Exception as error:
        return f"{type(error).__name__}: {error}"

torch.manual_seed(0)
model = AutoDenseModel.from_parts("efficientnet-lite0", "dpt", decoder_args={"dim": 5, "width": 6})
image = torch.rand(1, 3, 40, 56)
with torch.inference_mode():
    first = model(image).pixels
report["url"] = model.push_to_hub("me/tiny", token=sys.argv[1], metrics=[{"name": "mIoU", "value": 1, "command": "x"}])
with torch.no_grad():
    model.decoder.head.bias += 1
    second = model(image).pixels
report["second"] = model.push_to_hub("me/tiny", token=sys.argv[1], commit_message="again")

with torch.inference_mode():
    opened = AutoDenseModel.from_pretrained("me/tiny")
    report["latest is the second"] = torch.equal(opened(image).pixels, second)
    old = AutoDenseModel.from_pretrained("me/tiny", revision=report["url"].rpartition("/")[2])
    report["revision is the first"] = torch.equal(old(image).pixels, first)
    registry = dense_ctx.registry()
    sha = report["url"].rpartition("/")[2]
    registry.commit({("model", "tiny"): Entry("model", "tiny", f"hub:me/tiny@{sha}", Owner("t", "t", "1"))})
    report["short name"] = torch.equal(AutoDenseModel.from_pretrained("tiny")(image).pixels, first)
report["eval"] = not opened.training
report["no revision"] = outcome("me/tiny", revision="nothing")
report["no repository"] = outcome("me/gone", token=sys.argv[1])
report["not signed in"] = outcome("me/gone", token=False)
report["gated"] = outcome("me/gated")
report["not a model"] = outcome("me/other")
try:
    model.push_to_hub("me/tiny2", token=False)
except Exception as error:
    report["push without a token"] = f"{type(error).__name__}: {error}"
print("REPORT" + json.dumps(report))
"""

OFFLINE = """
import json, torch
from dense_ctx import AutoDenseModel
image = torch.rand(1, 3, 40, 56)
report = {"cached": list(AutoDenseModel.from_pretrained("me/tiny", **%s)(image).pixels.shape)}
try:
    AutoDenseModel.from_pretrained("me/never", **%s)
except Exception as error:
    report["never"] = f"{type(error).__name__}: {error}"
print("REPORT" + json.dumps(report))
"""


def run(code, environment, *arguments):
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=240
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.rpartition("REPORT")[2])


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    home = tmp_path_factory.mktemp("hf")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with serving() as (hub, address):
        environment["HF_ENDPOINT"] = address
        for name, files in (("me/gated", {"config.json": b"{}"}), ("me/other", {"weights.bin": b"x"})):
            hub.create(name)
            hub.commit(name, "main", files)
        hub.gated.add("me/gated")
        report = run(ONLINE, environment, TOKEN)
    # the server is gone now; the cache stays
    return report, hub, environment


def test_pushed_model_opens_bitwise(session):
    report, hub, _ = session
    assert report["latest is the second"]
    assert report["revision is the first"]
    assert report["short name"]
    assert report["eval"]
    assert set(hub.files("me/tiny", "main")) == {"README.md", "config.json", "manifest.json", "model.safetensors"}


def test_one_commit_a_push_and_the_card_is_written_once(session):
    report, hub, _ = session
    assert len([r for r in hub.requests if r == "POST /api/models/me/tiny/commit/main"]) == 2
    assert report["url"] != report["second"]
    card = hub.files("me/tiny", "main")["README.md"].decode()
    assert "| mIoU | 1 | `x` |" in card  # the second push had no metrics, and left it alone


@pytest.mark.parametrize(
    ("case", "start", "parts"),
    [
        ("no revision", "UnknownNameError", ["me/tiny", "no revision 'nothing'"]),
        ("no repository", "UnknownNameError", ["no repository me/gone", "check the spelling"]),
        ("not signed in", "UnknownNameError", ["me/gone", "hf auth login"]),
        ("gated", "WeightsError", ["me/gated is gated", "HF_TOKEN"]),
        ("not a model", "FileError", ["config.json", "a model of dense_ctx"]),
        ("push without a token", "WeightsError", ["Could not publish to me/tiny2", "hf auth login"]),
    ],
)
def test_what_the_hub_refuses(session, case, start, parts):
    text = session[0][case]
    assert text.startswith(start), text
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    "how", ["variable", *(pytest.param(how, marks=pytest.mark.slow) for how in ("{}", "{'local_files_only': True}"))]
)
def test_without_the_server_the_cache_serves(session, how):
    environment = dict(session[2])
    if how == "variable":
        environment["HF_HUB_OFFLINE"] = "1"
        how = "{}"
    start = time.time()
    report = run(OFFLINE % (how, how), environment)
    assert report["cached"] == [1, 5, 40, 56]
    assert report["never"].startswith(
        "WeightsError: There is no folder me/never, and the Hub repository is not in the cache"
    )
    assert environment["HF_HOME"] in report["never"]
    assert all(word in report["never"] for word in ("HF_HOME", "efficientnet-lite0", 'weights="PATH"'))
    assert time.time() - start < 60


def test_short_names_say_what_is_missing_and_where(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with monkeypatch.context() as patch:
        tiny = Entry("model", "tiny", "hub:me/tiny", Owner("t", "t", "1"))
        patch.setitem(registry()._entries, ("model", "tiny"), tiny)
        start = time.time()
        with pytest.raises(WeightsError, match=r"me/tiny \(the short name 'tiny'\) is not in the cache"):
            AutoDenseModel.from_pretrained("tiny", cache_dir=tmp_path)
        assert time.time() - start < 1
    with pytest.raises(UnknownNameError, match=r"Closest: lila-b14.*Nor is 'lila-b15' a folder"):
        AutoDenseModel.from_pretrained("lila-b15")
    for name in ("./nowhere", "/no/where", Path("no/where")):
        with pytest.raises(UnknownNameError, match="Nor is"):
            AutoDenseModel.from_pretrained(name)
