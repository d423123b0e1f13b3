"""What stops the loop: numbers, signals, disks; named, and with the last good state kept."""

import json
import os
import signal
import threading

import accelerate
import pytest
import torch
from dense_ctx_lila.ridge import ridge_fit
from safetensors.torch import load_file
from train_parts import config, install, losses, rows, settings

from dense_ctx import cli
from dense_ctx.environment import describe_environment
from dense_ctx.errors import CheckpointError, ConfigError, FileError, InputError, NonFiniteError, StoppedError
from dense_ctx.interfaces import Losses
from dense_ctx.numerics import float32_settings
from dense_ctx.testing import tiny_model
from dense_ctx.train import state, train


@pytest.fixture(autouse=True)
def plugin(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    install(tmp_path / "site", monkeypatch)


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
def test_a_damaged_state_is_passed_over(tmp_path, file):
    out, straight = tmp_path / "run", tmp_path / "straight"
    train(config(out, steps=4))
    damaged = out / "state" / "step_4" / file
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    with pytest.warns(UserWarning, match=r"step_4.state\.\w+ is damaged"):
        train(config(out, steps=6))
    train(config(straight, steps=6))
    assert losses(out) == losses(straight)
    assert all(state.check(folder) for folder in state.listed(out))  # the damaged one was written anew
    for folder in state.listed(out):
        (folder / file).unlink()
    with (
        pytest.warns(UserWarning, match=r"has no state\.\w+: is it a training state"),
        pytest.raises(CheckpointError, match="All states"),
    ):
        train(config(out, steps=8))


def test_a_loss_that_is_not_finite_names_step_and_samples(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(NonFiniteError, match="loss is NaN or infinite") as caught:
        train(config(out, data={"samples": 40, "poison": 5}, steps=10, save={"every": 1, "keep": 2}))
    message = str(caught.value)
    step = int(message.split()[1].rstrip(":"))
    assert "clip-5" in message
    assert "loss is NaN or infinite; image of clip-5 holds NaN or infinity" in message
    assert message.rpartition("Samples of the batch")[2].count("clip-") == 4
    assert [path.name for path in state.listed(out)] == [f"step_{step - 1}", f"step_{step - 2}"]
    assert f"state/step_{step - 1}" in message.replace(os.sep, "/")
    assert not (out / "model").exists()
    assert state.check(state.newest(out)).step == step - 1


def test_a_gradient_that_is_not_finite_names_its_parameter(tmp_path):
    objective = {"name": "sandbox", "args": {"blow_up": 3}}
    with pytest.raises(NonFiniteError, match=r"the gradient of objective\.head\.bias .*clip-3"):
        train(config(tmp_path / "run", objective=objective, clip_norm=None))


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("sample", "image of clip-5 holds NaN"),
        ("weights", "has diverged, model.decoder"),
        ("", "the training diverges"),
    ],
)
def test_numbers_that_a_regression_is_given_are_named_not_its_penalty(tmp_path, fault, cause):
    from sandbox_train.parts import Shift

    class Regressed(Shift):
        def forward(self, model, batch):
            if fault == "weights":
                next(model.decoder.parameters()).data.fill_(torch.nan)
            features, padded = model.encode(batch["image"])
            rows = model.decoder(features, padded, (16, 24)).flatten(2).mT
            rows = rows if fault else rows * torch.inf
            return Losses(ridge_fit(rows, rows[..., :2]).mean() + self.head.weight.sum(), {})

    data = {"samples": 40, "poison": 5 if fault == "sample" else None}
    with pytest.raises(NonFiniteError, match=r"^step \d+: A ridge regression is given .*; ") as caught:
        train(config(tmp_path / "run", data=data, steps=10), objective=Regressed())
    assert cause in str(caught.value)
    assert "Samples of the batch: clip-" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "accumulate"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "mixed_precision"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "Unset it"),
        ("ACCELERATE_GRADIENT_CLIPPING", "0.5", "clip_norm"),
        ("ACCELERATE_TORCH_DEVICE", "cuda:1", "device"),
        ("ACCELERATE_USE_FSDP", "true", "use DDP"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "use DDP"),
    ],
)
def test_variables_of_accelerate_change_no_run(tmp_path, monkeypatch, name, value, words):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name}={value} would change the run.*{words}"):
        train(config(tmp_path / "run"))


def test_variables_that_agree_or_that_a_launcher_sets_anyway_change_nothing(tmp_path, monkeypatch):
    train(config(tmp_path / "plain", accumulate=2))
    launcher = {"MIXED_PRECISION": "no", "DYNAMO_BACKEND": "NO", "DYNAMO_MODE": "default", "CPU_AFFINITY": "0",
                "DYNAMO_USE_FULLGRAPH": "False", "GRADIENT_ACCUMULATION_STEPS": "2"}  # fmt: skip
    for name, value in launcher.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    train(config(tmp_path / "launched", accumulate=2))
    assert losses(tmp_path / "plain") == losses(tmp_path / "launched")


def test_a_device_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="no device 'cuda:7' here: cpu"):
        train(config(tmp_path / "run", device="cuda:7"))


def test_a_variable_that_overrides_cudas_arithmetic_is_recorded(monkeypatch):
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    assert "NVIDIA_TF32_OVERRIDE" not in describe_environment()["arithmetic"]
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert describe_environment()["arithmetic"]["NVIDIA_TF32_OVERRIDE"] == "0"


def test_float32_is_float32_whatever_the_process_was_set_to(tmp_path):
    states = {}

    def look(model, step):
        states[step] = float32_settings()
        return {}

    torch.set_float32_matmul_precision("medium")
    before = float32_settings()
    try:
        for name, precision in (("strict", "no"), ("loose", "tf32")):
            folder = train(config(tmp_path / name, mixed_precision=precision, validate={"every": 6}), validate=look)
            record = json.loads((folder / "config.json").read_text())["trained_with"]["arithmetic"]
            assert record == states[6]
            assert record["cuda.matmul"] == record["cudnn.conv"] == ("ieee" if precision == "no" else "tf32")
            assert record["mkldnn.matmul"] == "ieee"
            assert float32_settings() == before
            assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_ctrl_c_saves_and_a_second_one_interrupts(tmp_path):
    out, straight = tmp_path / "run", tmp_path / "straight"

    def stop(model, step):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return {}

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(StoppedError, match=r"after step 3 of 6.*step_3") as caught:
        train(config(out, validate={"every": 3}, save={"every": 0}), validate=stop)
    assert caught.value.signal == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
    train(config(out))
    train(config(straight))
    assert losses(out) == losses(straight)

    def insist(model, step):
        signal.raise_signal(signal.SIGINT)
        threading.Event().wait(1.2)
        signal.raise_signal(signal.SIGINT)
        return {}

    with pytest.raises(KeyboardInterrupt):
        train(config(tmp_path / "twice", validate={"every": 2}, save={"every": 0}), validate=insist)
    assert state.listed(tmp_path / "twice") == []


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    resource = pytest.importorskip("resource")  # POSIX
    out = tmp_path / "run"
    train(config(out, steps=2))
    before = {path: path.read_bytes() for path in (out / "state" / "step_2").iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))  # the log fits, the tensors do not
        with pytest.raises(FileError, match="step_4"):
            train(config(out, steps=6))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert {path: path.read_bytes() for path in (out / "state" / "step_2").iterdir()} == before
    assert [path.name for path in (out / "state").iterdir()] == ["step_2"]
    train(config(out, steps=6))


def test_an_out_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="Choose another out"):
        train(config(tmp_path / "file" / "run"))


def test_what_cannot_be_trained_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="made of modules"):
        train(config(tmp_path / "a"), model=tiny_model())
    with pytest.raises(InputError, match="needs __len__"):
        train(config(tmp_path / "b"), dataset=iter([1]))
    with pytest.raises(ConfigError, match="objective is missing"):
        train(config(tmp_path / "c", objective=None))
    with pytest.raises(ConfigError, match=r"validate\.every is 2"):
        train(config(tmp_path / "d", validate={"every": 2}))


class WithScaler(accelerate.Accelerator):
    """float16 on the CPU, where Accelerate leaves it out: the same autocast and loss scaler as on an accelerator."""

    def __init__(self, mixed_precision, **options):
        super().__init__(mixed_precision=mixed_precision, **options)
        self.native_amp, self.scaler = True, torch.amp.GradScaler("cpu", init_scale=2.0**30)


def test_float16_leaves_out_overflowing_steps_and_keeps_its_scale(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="mixed_precision=fp16 needs an accelerator, not cpu"):
        train(config(tmp_path / "refused", mixed_precision="fp16"))
    monkeypatch.setattr(accelerate, "Accelerator", WithScaler)
    straight, halves = tmp_path / "straight", tmp_path / "halves"
    train(config(straight, steps=24, mixed_precision="fp16"))
    norms = [row["grad_norm"] for row in rows(straight)]
    skipped = norms.count(None)
    assert 3 < skipped < 20
    assert norms[:skipped] == [None] * skipped
    assert state.check(state.newest(straight)).scaler["scale"] == 2.0 ** (30 - skipped)
    average = load_file(straight / "state" / "step_24" / state.TENSORS)["optimizer.objective.head.weight/step"]
    assert average == 24 - skipped  # a step left out counts for no optimizer state
    train(config(halves, steps=3, mixed_precision="fp16"))
    train(config(halves, steps=24, mixed_precision="fp16"))
    assert losses(straight) == losses(halves)
    objective = {"name": "sandbox", "args": {"blow_up": 3}}
    changes = {"data": {"samples": 4}, "save": {"every": 10, "keep": 1}}
    with pytest.raises(NonFiniteError, match=r"step 33: the gradient of objective\.head\.bias"):  # no scale helps
        train(config(tmp_path / "never", steps=60, mixed_precision="fp16", objective=objective, **changes))


def test_sigterm_ends_the_verb_with_143_and_how_to_go_on(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    changes = {"objective": {"name": "sandbox", "args": {"signal_at": 3}}, "workers": 2}
    file.write_text(json.dumps(settings(tmp_path / "run", **changes)))
    assert cli.main(["train", str(file)]) == 143
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "stopped after step 3 of 6" in last
    assert "same command" in last
    assert cli.main(["train", str(file)]) == 0
