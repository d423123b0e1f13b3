"""The trust boundary: what a configuration may fetch and say, against a Hub on loopback, and over every registered name."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from dense_ctx_predict.context_files import load_context, save_context
from dense_ctx_probes.text import TextEmbeddings
from hubserver import TOKEN, serving
from train_parts import config, install

from dense_ctx import AutoDenseModel, Decoder, InContext, create_backbone, registry
from dense_ctx.config import load_yaml
from dense_ctx.create import create_part
from dense_ctx.errors import ConfigError, ContractError, FileError, InputError
from dense_ctx.evaluate import load_protocol
from dense_ctx.persistence.file_args import WEIGHTS, file_args_problem, is_permitted
from dense_ctx.persistence.links import opened
from dense_ctx.testing import check_decoder, tiny_model
from dense_ctx.train import state, train

CODE = """
import json, sys, torch
from pathlib import Path
from dense_ctx import AutoDenseModel, create_backbone

def outcome(call):
    try:
        call()
        return "opened"
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def no(*_):
    raise SystemExit("asked on standard input")

import builtins
builtins.input = no
report, place = {}, Path(sys.argv[2])
torch.manual_seed(0)
base = AutoDenseModel.from_parts("rgb-xy", "dpt", decoder_args={"dim": 5, "width": 6})
base.push_to_hub("other/base", token=sys.argv[1])

def named(name, folder, **args):
    model = AutoDenseModel.from_parts("rgb-xy", "upsample")
    model.save_pretrained(place / folder)
    data = json.loads((place / folder / "config.json").read_text())
    data["backbone"], data["backbone_digest"] = {"name": name, "args": args}, ""
    (place / folder / "config.json").write_text(json.dumps(data))
    import hashlib
    digests = {f: hashlib.sha256((place / folder / f).read_bytes()).hexdigest() for f in ("config.json", "model.safetensors")}
    (place / folder / "manifest.json").write_text(json.dumps({"sha256": digests}))
    return place / folder

for label, name in {"hf": "hf:evil/repo", "lora": "lora:hf:evil/repo", "model": "model:evil/repo", "lora model": "lora:model:evil/repo",
                    "timm": "timm:hf-hub:evil/repo"}.items():
    folder = named(name, label)
    report[label] = outcome(lambda: AutoDenseModel.from_pretrained(folder))
report["typed code"] = outcome(lambda: create_backbone("hf:evil/repo"))
report["typed adapter"] = outcome(lambda: create_backbone("hf:evil/adapter"))

# a chain: refused where it would be fetched, opened where its user allows it, and from the cache afterwards
folder = named("model:other/base", "chain", maps="backbone")
report["chain"] = outcome(lambda: AutoDenseModel.from_pretrained(folder))
report["allowed"] = outcome(lambda: AutoDenseModel.from_pretrained(folder, allow=["other/base"]))
report["cached"] = outcome(lambda: AutoDenseModel.from_pretrained(folder))
report["allow a text"] = outcome(lambda: AutoDenseModel.from_pretrained(folder, allow="other/base"))
print("REPORT" + json.dumps(report))
"""
CONFIG = {"model_type": "evil", "auto_map": {"AutoConfig": "third/repo--code.C", "AutoModel": "code.M"}}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    place = tmp_path_factory.mktemp("hub")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_HOME": str(place / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with serving() as (hub, address):
        environment["HF_ENDPOINT"] = address
        code = f"open({str(place / 'ran')!r}, 'w')\nclass C: pass\nclass M: pass\n".encode()
        adapter = {
            "base_model_name_or_path": "third/repo",
            "peft_type": "LORA",
            "auto_mapping": {"parent_library": "os"},
        }
        for name, files in {
            "evil/repo": {"config.json": json.dumps(CONFIG).encode(), "code.py": code},
            "third/repo": {"config.json": json.dumps(CONFIG).encode(), "code.py": code},
            "evil/adapter": {"adapter_config.json": json.dumps(adapter).encode(), "adapter_model.bin": b"x"},
        }.items():
            hub.create(name)
            hub.commit(name, "main", files)
        run = subprocess.run([sys.executable, "-c", CODE, TOKEN, str(place)], env=environment, capture_output=True,
                             text=True, timeout=240, stdin=subprocess.DEVNULL)  # fmt: skip
        assert run.returncode == 0, run.stderr[-3000:]
        return json.loads(run.stdout.rpartition("REPORT")[2]), list(hub.requests), place


@pytest.mark.parametrize("case", ["hf", "lora", "model", "lora model"])
def test_a_file_does_not_lead_to_another_repository(session, case):
    report, _, _ = session
    assert re.match(r"(WeightsError|FileError): ", report[case]), report[case]
    assert "allow=['evil/repo']" in report[case]


def test_no_code_runs_and_no_third_repository_is_asked(session):
    report, requests, place = session
    assert report["timm"].startswith("CheckpointError")
    assert "has no model 'hf-hub:evil/repo'" in report["timm"]
    assert report["typed code"].startswith("InputError")
    assert "code of the repository is not run" in report["typed code"]
    assert report["typed adapter"].startswith(("FileError", "WeightsError", "InputError"))
    assert not (place / "ran").exists()
    assert [line for line in requests if "third" in line or ".py" in line or "adapter" in line.rpartition("/")[2]] == []


def test_a_chain_is_fetched_where_its_user_allows_it(session):
    report, requests, _ = session
    assert "allow=['other/base']" in report["chain"]
    assert report["allowed"] == "opened"
    assert report["cached"] == "opened"
    assert report["allow a text"].startswith("InputError")
    assert any(line.startswith("GET /other/base/resolve") for line in requests)


# ---------------------------------------------------------------------- arguments from a file


LED = {"model", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "features_only", "folder", "device", "cue_cache",
       "cache", "targets"}  # arguments that lead to another file, folder, repository or device  # fmt: skip


@pytest.mark.parametrize("kind", ["backbone", "decoder", "probe", "objective"])
def test_every_part_says_what_may_come_from_a_file(kind):
    for name in registry().names(kind):
        target = registry().resolve(next(entry for entry in registry().entries(kind) if entry.name == name))
        assert target.file_args is not None, name
        assert file_args_problem(target) is None, name
        assert not LED - ({"targets"} if name.startswith("lora:") else set()) & set(target.file_args), name


@pytest.mark.parametrize("kind", ["backbone", "decoder", "probe", "objective"])
def test_a_part_is_built_with_what_it_lists_alone_while_a_folder_is_opened(kind, tmp_path):
    for name in registry().names(kind):
        name = f"{name}efficientnet-lite0" if name.endswith(":") else name
        for key, value in {
            "banana": 1,
            "folder": "/etc",
            "cue_cache": "/etc",
            "cache": "hf:evil/repo",
            "self": 1,
        }.items():
            with (
                opened(tmp_path),
                pytest.raises(ConfigError, match=rf"{kind} {name} does not take {key}=.* from a file"),
            ):
                create_part(kind, name, {key: value})


def test_a_context_s_option_that_names_a_file_is_its_user_s_to_give(tmp_path):
    model, image, mask = tiny_model(), torch.rand(3, 16, 24), torch.arange(16 * 24).view(16, 24) // 200
    embeddings = TextEmbeddings(("a", "b"), torch.eye(2, 64), "m", ("{}",)).save(tmp_path / "text.safetensors")
    cases = {
        "zero-shot": {"embeddings": str(embeddings), "updates": 2},
        "retrieval": {"folder": str(tmp_path / "bank"), "classes": 2},
    }
    for method, options in cases.items():
        context = InContext(model, method, **options).fit(image, mask)
        expected, folder = context.predict_proba(image), save_context(context, tmp_path / method)
        key = next(iter(options))
        with pytest.raises(
            ConfigError,
            match=rf"probe {method} does not take {key}='.*' from a file .*load_context\(FOLDER, model, {key}=",
        ):
            load_context(folder, model)
        again = load_context(folder, model, **{key: options[key]})
        assert torch.equal(again.predict_proba(image), expected)
        assert again.options == options
    folder = save_context(InContext(model, "knn", k=3).fit(image, mask), tmp_path / "knn")
    assert load_context(folder, model).probe_.k == 3
    assert load_context(folder, model, k=5).probe_.k == 5  # the user's own goes before the folder's


def test_a_state_does_not_bring_an_objective_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    install(tmp_path / "site", monkeypatch)
    train(config(tmp_path / "theirs", objective={"name": "sandbox", "args": {"dropout": 0.5}}))
    folder, built = state.newest(tmp_path / "theirs"), []
    create = registry().create
    monkeypatch.setattr(
        registry(), "create", lambda *names, **args: built.append((names, args)) or create(*names, **args)
    )
    with pytest.raises(ConfigError, match=r"objective\.args\.dropout: 0\.5 there"):
        train(config(tmp_path / "mine", resume=str(folder)))
    assert built == []


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        (bool, [True, None], [1, "true", []]),
        (range(1, 9), [1, 8], [0, 9, 1.0, True, "1", 10**40]),
        ((0.0, 1.0), [0, 0.5, 1], [-1, 2, float("nan"), float("inf"), True, "0"]),
        (frozenset({"a"}), ["a"], ["b", ["a"], 1, {}]),
        (re.compile("[a-z]+"), ["ab"], ["a b", "", "ab\n", 1]),
        ([range(3)], [[], [0, 1], (2,)], [[3], [None], [[0]], [0] * 300, "01", {0: 1}]),
        (dict, [{}], [[], "a", 1]),
        (
            {"a": bool, "b": [range(3)]},
            [{}, {"a": True}, {"a": False, "b": [2]}],
            [[], {"c": 1}, {"a": 1}, {"b": [3]}, "a"],
        ),
        (
            WEIGHTS,
            ["pretrained", "/a/b.pth", None],
            ["http://x/y", "//host/share", "\\\\host\\share", 3, ["a"], "n" * 5000],
        ),
    ],
)
def test_rules(rule, right, wrong):
    assert all(is_permitted(rule, value) for value in right)
    assert [value for value in wrong if is_permitted(rule, value)] == []


def test_a_refusal_says_what_to_type(tmp_path):
    folder = AutoDenseModel.from_parts("rgb-xy").save_pretrained(tmp_path / "m")
    data = json.loads((folder / "config.json").read_text())
    data["backbone"]["args"] = {"position": 2, "pretrained_cfg_overlay": {}}
    (folder / "config.json").write_text(json.dumps(data))
    import hashlib

    digests = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in ("config.json", "model.safetensors")}
    (folder / "manifest.json").write_text(json.dumps({"sha256": digests}))
    with pytest.raises(
        ConfigError, match=r"rgb-xy does not take pretrained_cfg_overlay=.* from a file.*takes position.*from_parts"
    ):
        AutoDenseModel.from_pretrained(folder)


def test_the_contract_of_file_args():
    class Plain(Decoder):
        file_args = {"width": range(1, 9)}  # noqa: RUF012

        def __init__(self, dims, strides, width=4):
            super().__init__()
            self.dim, self.mix = width, torch.nn.Conv2d(dims[-1], width, 1)

        def forward(self, features, images, size):
            return torch.nn.functional.interpolate(self.mix(features.maps[-1]), size=size)

    assert "construction" in check_decoder(Plain)
    Plain.file_args = {"breadth": range(1, 9)}
    with pytest.raises(ContractError, match=r"\[construction\].*file_args names breadth"):
        check_decoder(Plain)
    Plain.file_args = {"width": range(5, 9)}
    with pytest.raises(ContractError, match=r"file_args refuses the default of width, 4"):
        check_decoder(Plain)


def test_folders_of_transformers_lead_nowhere(tmp_path):
    for words, message in [
        (CONFIG, "code of the repository is not run"),
        ({"model_type": "timm_wrapper", "architecture": "hf-hub:evil/repo"}, "takes its network from elsewhere"),
        (
            {"model_type": "detr", "use_pretrained_backbone": True, "backbone": "evil/repo"},
            "takes its network from elsewhere",
        ),
        ({"model_type": "dinov2", "num_hidden_layers": 10**5}, "no encoder has above 256"),
        ({"model_type": "bert"}, "no vision encoder"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(words))
        with pytest.raises(InputError, match=message):
            create_backbone(f"hf:{tmp_path}", weights=None)


# ---------------------------------------------------------------------- YAML


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}' if n else '*a'] * 10)}]\n" for n in range(9)),
        "a: &a [*a]", "[" * 3000, "a: " * 3000, "x" * (1 << 17), "a: " + "9" * 5000, "- " * 20_000, "? " * 5000,
        "a: !!python/object/apply:os.system [echo]", "%YAML 9.9\n---\n", "\x00", "a: b\n" * 2, "{a: 1, a: 2}",
    ],
)  # fmt: skip
def test_hostile_yaml(text, tmp_path):
    import time

    start = time.perf_counter()
    with pytest.raises(ConfigError) as error:
        load_yaml(text, "a file")
    assert time.perf_counter() - start < 1
    assert len(str(error.value)) < 500


@pytest.mark.skipif(os.name == "nt", reason="pipes and devices are POSIX's")
def test_protocols_are_regular_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "long.yaml").write_bytes(b"a: 1\n" * (1 << 20))
    for name in ("pipe.yaml", "zero.yaml", "long.yaml"):
        with pytest.raises(FileError):
            load_protocol(str(tmp_path / name))
