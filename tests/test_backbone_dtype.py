"""A frozen backbone in bfloat16, by its argument `dtype`: what is trained on it stays float32 and begins as ever."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from dense_ctx_export.source import source_of
from test_placement import vit_file
from train_parts import config, install, lay_out, losses, same, weights

from dense_ctx import AutoDenseModel
from dense_ctx.errors import CheckpointError, ConfigError
from dense_ctx.persistence.artefact import read_object
from dense_ctx.train import train

PEAK = """
import sys, threading
from pathlib import Path
from test_backbone_dtype import run_config
from dense_ctx.train import train

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))

def run(out, depth, width, file):
    size = {"depth": depth, "embed_dim": width, "num_heads": 8, "weights": file}
    train(run_config(Path(sys.argv[1]) / out, size, sys.argv[2] or None, 1))

run("small", 2, 64, sys.argv[3])  # what is imported and allocated whatever the backbone's size
before, peak, over = anonymous(), [0], threading.Event()
def watch():
    while not over.wait(0.002):
        peak[0] = max(peak[0], anonymous())
thread = threading.Thread(target=watch); thread.start()
run("large", 8, 1024, sys.argv[4])
over.set(); thread.join()
print(peak[0] - before)
"""
VIT = "timm:vit_base_patch14_dinov2.lvd142m"


@pytest.fixture(scope="module")
def args(tmp_path_factory):
    file = vit_file(tmp_path_factory.mktemp("weights") / "vit.safetensors", 2, 32)
    return {"weights": str(file), "depth": 2, "embed_dim": 32, "num_heads": 8}


def model_of(args, **more):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoDenseModel.from_parts(VIT, "dpt", backbone_args={**args, **more}, decoder_args={"dim": 6}), (
            torch.rand(3)  # what an objective draws for its own weights
        )


def test_the_backbone_alone_is_bfloat16_and_what_is_made_after_it_is_the_same(args):
    (plain, then), (half, after) = model_of(args), model_of(args, dtype="bfloat16")
    assert torch.equal(then, after)
    assert same(plain.decoder.state_dict(), half.decoder.state_dict())
    frozen = half.backbone.state_dict()
    assert {value.dtype for value in frozen.values()} == {torch.bfloat16}
    assert same({key: value.bfloat16() for key, value in plain.backbone.state_dict().items()}, frozen)
    image = torch.rand(1, 3, 42, 56)
    (whole,), (features,) = plain([image[0]]), half([image[0]])
    assert features.pixels.dtype == features.patches.dtype == torch.float32
    assert 0 < (features.patches - whole.patches).abs().max() < 0.05 * whole.patches.abs().max()


def test_a_network_of_transformers_is_bfloat16_too(tmp_path):
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    net = transformers.Dinov2Model(transformers.Dinov2Config(**size))
    net.save_pretrained(tmp_path / "net")
    models = []
    for args in ({}, {"dtype": "bfloat16"}):
        torch.manual_seed(0)
        models.append(AutoDenseModel.from_parts(f"hf:{tmp_path / 'net'}", "linear", backbone_args=args))
    plain, half = models
    assert same(plain.decoder.state_dict(), half.decoder.state_dict())
    rounded = {key: value.bfloat16() for key, value in plain.backbone.state_dict().items()}
    assert same(rounded, half.backbone.state_dict())
    image = torch.rand(1, 3, 28, 42)
    whole, features = plain(image), half(image)
    assert features.pixels.dtype == features.cls.dtype == torch.float32
    assert 0 < (features.patches - whole.patches).abs().max() < 0.05 * whole.patches.abs().max()
    half.save_pretrained(tmp_path / "model")
    assert same(AutoDenseModel.from_pretrained(tmp_path / "model").state_dict(), half.state_dict())


@pytest.mark.parametrize("standalone", [False, True])
def test_a_saved_model_opens_so_again(args, tmp_path, standalone):
    half, _ = model_of(args, dtype="bfloat16")
    image = torch.rand(1, 3, 28, 28)
    opened = AutoDenseModel.from_pretrained(half.save_pretrained(tmp_path / "model", standalone=standalone))
    assert same(opened.state_dict(), half.state_dict())
    assert torch.equal(opened(image).pixels, half(image).pixels)
    half.backbone.net.float()
    with pytest.raises(CheckpointError, match=r"dtype=bfloat16 and its weights are float32 now.*backbone.net.to\("):
        half.save_pretrained(tmp_path / "other")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_weights_stay_in_their_type_however_the_model_is_cast(args, tmp_path, dtype):
    half, _ = model_of(args, dtype="bfloat16")
    frozen = {key: value.clone() for key, value in half.backbone.state_dict().items()}
    half.to(dtype)
    assert same(frozen, half.backbone.state_dict())
    image = torch.rand(1, 3, 28, 28)
    features = half(image)
    assert {features.pixels.dtype, features.patches.dtype, half.dtype} == {dtype}
    half.save_pretrained(tmp_path)
    opened = AutoDenseModel.from_pretrained(tmp_path)
    assert same(opened.state_dict(), half.state_dict())
    assert torch.equal(opened(image).pixels, features.pixels)


@pytest.mark.parametrize("standalone", [False, True])
def test_a_saved_model_with_it_is_a_backbone(args, tmp_path, standalone):
    half, _ = model_of(args, dtype="bfloat16")
    name = f"model:{half.save_pretrained(tmp_path / 'half')}"
    outer = AutoDenseModel.from_parts(name, "upsample", backbone_args={"maps": "both"})
    types = {key: value.dtype for key, value in outer.backbone.named_parameters()}
    assert {types[key] for key in types if key.startswith("backbone.")} == {torch.bfloat16}
    assert {types[key] for key in types if key.startswith("decoder.")} == {torch.float32}
    image = torch.rand(1, 3, 28, 28)
    pixels = outer(image).pixels
    assert pixels.dtype == torch.float32
    opened = AutoDenseModel.from_pretrained(outer.save_pretrained(tmp_path / "outer", standalone=standalone))
    assert same(opened.state_dict(), outer.state_dict())
    assert torch.equal(opened(image).pixels, pixels)
    with pytest.raises(ConfigError, match="adapters train beside float32 weights"):
        AutoDenseModel.from_parts(f"lora:{name}", "upsample")


def test_an_export_computes_in_float32_with_the_rounded_weights(args):
    half, _ = model_of(args, dtype="bfloat16")
    source, image = source_of(half, (28, 28), None), torch.rand(3, 28, 28)
    assert {value.dtype for value in source.graph.parameters()} == {torch.float32}
    assert {value.dtype for value in half.backbone.parameters()} == {torch.bfloat16}
    rounded, _ = model_of(args)
    rounded.backbone.load_state_dict(half.backbone.state_dict())
    assert torch.equal(source.eager(image)["pixels"], rounded(image[None]).pixels)


def test_what_would_train_in_bfloat16_is_refused(args, tmp_path, monkeypatch):
    for more in ({"dtype": "float16"}, {"dtype": "bfloat16", "adapters": {"peft_type": "LORA"}}):
        with pytest.raises(ConfigError, match=r"weights are float32 or bfloat16|adapters beside dtype=bfloat16"):
            model_of(args, **more)
    with pytest.raises(ConfigError, match="adapters train beside float32 weights"):
        AutoDenseModel.from_parts(f"lora:{VIT}", "upsample", backbone_args={"args": {**args, "dtype": "bfloat16"}})
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    install(tmp_path / "site", monkeypatch)
    run = run_config(tmp_path / "run", args, "bfloat16")
    model = AutoDenseModel.from_parts(run.model.backbone, run.model.decoder)
    from sandbox_train.parts import Shift

    class Whole(Shift):
        def setup(self, model, dataset, *, fresh):
            return [{"params": [model.backbone.get_parameter(name) for name in model.unfreeze("net.norm")]}]

    with pytest.raises(ConfigError, match=r"dtype=bfloat16, in which most steps.*leave dtype out"):
        train(run, model=model, objective=Whole())
    bare = AutoDenseModel.from_parts(VIT, "upsample", backbone_args={**args, "dtype": "bfloat16"})  # features so, too
    bare.unfreeze("net.norm")
    with pytest.raises(ConfigError, match=r"dtype=bfloat16, in which most steps"):
        bare.train()(torch.rand(1, 3, 28, 28))


def run_config(out, args, dtype, steps=2):
    backbone = {"name": VIT, "args": {**args, "layers": [0, 1], **({"dtype": dtype} if dtype else {})}}
    return config(out, steps=steps, model={"backbone": backbone, "decoder": {"name": "sandbox"}})


@pytest.mark.slow
def test_a_training_on_it_resumes_and_records_it(args, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    install(tmp_path / "site", monkeypatch)
    train(run_config(tmp_path / "whole", args, "bfloat16", 4))
    train(run_config(tmp_path / "parts", args, "bfloat16"))
    train(run_config(tmp_path / "parts", args, "bfloat16", 4))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert same(weights(tmp_path / "parts/model"), weights(tmp_path / "whole/model"))
    assert read_object(tmp_path / "parts/model/config.json")["backbone"]["args"]["dtype"] == "bfloat16"
    with pytest.raises(ConfigError, match=r"model.backbone.args.dtype: 'bfloat16' there"):
        train(run_config(tmp_path / "parts", args, None, 4))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are counted on Linux with glibc")
def test_a_training_holds_the_weights_once_in_their_type(tmp_path):
    files = [str(vit_file(tmp_path / f"{depth}.safetensors", depth, width)) for depth, width in ((2, 64), (8, 1024))]
    path = [*lay_out(tmp_path / "site"), str(Path(__file__).parent)]
    line = [sys.executable, "-c", PEAK, str(tmp_path), "bfloat16", *files]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    peak, held = float(done.stdout.split()[-1]), (tmp_path / "8.safetensors").stat().st_size / 2 / 2**20
    print(f"{peak:.0f} MB of anonymous memory for {held:.0f} MB of weights")
    assert 0.9 * held < peak < 1.3 * held
