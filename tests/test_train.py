"""The loop in one process: it learns, publishes, and goes on where it was."""

import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from tiny_datasets import davis
from train_parts import config, install, lay_out, losses, rows, same, settings, weights

from dense_ctx import AutoDenseModel, cli, partial_files
from dense_ctx.errors import ConfigError, ContractError, FileError
from dense_ctx.train import TrainConfig, state, train
from dense_ctx.train.log import read_log


@pytest.fixture(autouse=True)
def plugin(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    install(tmp_path / "site", monkeypatch)


def test_it_learns_logs_and_publishes(tmp_path):
    steps = []

    def validate(model, step):
        assert not model.training
        steps.append(step)
        return {"score": step / 2}

    out = tmp_path / "run"
    torch.manual_seed(3)
    before = torch.rand(1)
    torch.manual_seed(3)
    result = train(config(out, steps=25, save={"every": 10, "keep": 2}, validate={"every": 10}), validate=validate)
    assert torch.equal(torch.rand(1), before)  # the caller's random state is as it was
    assert result == out / "model"
    assert steps == [10, 20, 25]
    lines = rows(out)
    assert [row["step"] for row in lines] == list(range(1, 26))
    assert sum(r["loss"] for r in lines[-5:]) < 0.5 * sum(r["loss"] for r in lines[:5])
    assert all(row["grad_norm"] > 0 and row["seconds"] > 0 and row["losses"]["mse"] == row["loss"] for row in lines)
    validated = [row for row in read_log(out / "log.jsonl") if "validation" in row]
    assert [row["validation"]["score"] for row in validated] == [5, 10, 12.5]
    assert [path.name for path in state.listed(out)] == ["step_25", "step_20"]
    model = AutoDenseModel.from_pretrained(result)
    record = model.model_config.trained_with
    assert record["objective"] == {"name": "sandbox", "args": {}}
    assert record["steps"] == 25
    assert record["data"] == {"samples": 7}
    assert {"seconds", "machine", "command", "versions"} <= set(record)
    assert TrainConfig.load(out / "config.yaml") == config(
        out,
        steps=25,
        save={"every": 10, "keep": 2},
        validate={"every": 10},
        optimizer={"lr": 1e-2, "weight_decay": 0.01},
    )


def test_a_protocol_validates(tmp_path):
    davis(tmp_path / "davis")
    check = {
        "every": 1,
        "protocol": "davis2016-knn-grid8-v1",
        "data": str(tmp_path / "davis"),
        "limit": 1,
        "set": ["grid=2"],
    }
    train(config(tmp_path / "run", steps=2, validate=check))
    validations = [row["validation"] for row in read_log(tmp_path / "run" / "log.jsonl") if "validation" in row]
    assert len(validations) == 2
    assert all(0 <= scores["J&F-Mean"] <= 1 and scores["J-Mean"] >= 0 for scores in validations)
    assert (tmp_path / "run" / "validation" / "step_2" / "result.json").exists()
    train(config(tmp_path / "alone", steps=2))
    assert losses(tmp_path / "run") == losses(tmp_path / "alone")  # validation changes nothing


@pytest.mark.parametrize("seeded", [False, True])
def test_a_continued_run_is_the_same_run(tmp_path, seeded):
    changes = {"data": {"samples": 7, "seeded": seeded}, "objective": {"name": "sandbox", "args": {"dropout": 0.3}}}
    straight, halves = tmp_path / "straight", tmp_path / "halves"
    train(config(straight, steps=8, **changes))
    train(config(halves, steps=3, **changes))  # in the middle of the second epoch
    train(config(halves, steps=8, workers=0 if seeded else 2, **changes))
    assert losses(straight) == losses(halves)
    assert same(weights(straight / "model"), weights(halves / "model"))
    one, two = ((out / "state" / "step_8" / state.TENSORS).read_bytes() for out in (straight, halves))
    assert one == two  # the objective's own tensors and the optimizer's among them
    draws = [row["losses"]["drawn"] for row in rows(straight)]
    assert len(set(draws)) == 8


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_killed_in_mid_epoch_it_goes_on_bitwise(tmp_path, workers):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    train(config(straight, steps=9))
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(settings(killed, steps=9, workers=workers)))
    path = os.pathsep.join([*lay_out(tmp_path / "other"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "dense_ctx.cli", "train", str(file)],
        env={**os.environ, "PYTHONPATH": path, "SANDBOX_KILL_AT": "7"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [row["step"] for row in rows(killed)] == [1, 2, 3, 4, 5, 6]
    assert [path.name for path in state.listed(killed)] == ["step_6", "step_4"]
    with (killed / "log.jsonl").open("a") as file:  # as killed between two writes
        file.write('{"step": 7, "loss": 0.0}\n{"step": 8, "lo')
    train(config(killed, steps=9, workers=workers))
    assert losses(straight) == losses(killed)
    assert same(weights(straight / "model"), weights(killed / "model"))


def test_another_configuration_is_refused_by_its_keys(tmp_path):
    out = tmp_path / "run"
    train(config(out, steps=2))
    with pytest.raises(
        ConfigError,
        match=r"another configuration: data\.samples: 7 there, 8 now; optimizer\.lr: 0\.01 there, 0\.02 now",
    ):
        train(config(out, steps=4, optimizer={"lr": 2e-2}, data={"samples": 8}))
    with pytest.raises(ConfigError, match="more than steps=1"):
        train(config(out, steps=1))
    with pytest.raises(FileError, match="resume=never"):
        train(config(out, steps=4, resume="never"))
    train(config(out, steps=4, save={"every": 1, "keep": 5}, log=2, workers=0))
    assert [path.name for path in state.listed(out)] == ["step_4", "step_3", "step_2"]


def test_other_samples_and_other_backbone_weights_are_refused(tmp_path):
    out = tmp_path / "run"
    train(config(out, steps=2))
    with pytest.raises(ConfigError, match="trained on 7 samples, the data set now has 3"):
        train(config(out, steps=4), dataset=torch.utils.data.TensorDataset(torch.rand(3)))
    model = AutoDenseModel.from_parts("sandbox", "sandbox")
    with pytest.raises(ConfigError, match="other backbone weights"):
        train(config(out, steps=4), model=model)


def test_going_back_and_on_from_a_published_model(tmp_path):
    out, straight = tmp_path / "run", tmp_path / "straight"
    killed = f".step_9.{(1 << 22) + 1}-{partial_files._scope()}-{'0' * 8}.partial"  # no system counts so far
    (out / "state" / killed).mkdir(parents=True)
    train(config(out, steps=4))
    assert [path.name for path in state.listed(out)] == ["step_4", "step_2"]
    train(config(out, steps=3, resume=str(out / "state" / "step_2")))
    assert sorted(path.name for path in (out / "state").iterdir()) == ["step_2", "step_3"]
    train(config(straight, steps=3))
    assert losses(out) == losses(straight)
    model = train(config(tmp_path / "second", model=str(out / "model"), steps=1, optimizer={"lr": 1e-30}))
    first, second = weights(out / "model"), weights(model)
    assert all(torch.allclose(first[name], second[name]) for name in first)
    with pytest.raises(FileError, match="is it a training state of dense_ctx"):
        train(config(out, steps=4, resume=str(tmp_path)))


def test_accumulated_parts_sum_to_the_whole_batch(tmp_path):
    train(config(tmp_path / "whole", steps=3))
    train(config(tmp_path / "parts", steps=3, accumulate=4))
    one, two = weights(tmp_path / "whole" / "model"), weights(tmp_path / "parts" / "model")
    assert all(torch.allclose(one[name], two[name], rtol=0, atol=1e-5) for name in one)
    for left, right in zip(rows(tmp_path / "whole"), rows(tmp_path / "parts"), strict=True):
        assert left["loss"] == pytest.approx(right["loss"], abs=1e-6)
        assert left["grad_norm"] == pytest.approx(right["grad_norm"], abs=1e-5)


def test_clipping_bounds_the_step(tmp_path):
    results = {}
    for name, norm in (("clipped", 1e-12), ("free", None)):
        out = tmp_path / name
        changes = {
            "optimizer": {"lr": 1e-2, "weight_decay": 0.0, "eps": 1e-3}
        }  # eps: Adam's own scaling out of the way
        train(config(out, steps=1, clip_norm=norm, **changes))
        results[name] = weights(out / "model")["decoder.project.0.weight"]
    initial = tmp_path / "initial"
    train(config(initial, steps=1, optimizer={"lr": 1e-30, "weight_decay": 0.0}))
    start = weights(initial / "model")["decoder.project.0.weight"]
    assert (results["clipped"] - start).abs().max() < 1e-9 < 1e-4 < (results["free"] - start).abs().max()


def test_half_precision_trains_full_precision_weights(tmp_path):
    model = train(config(tmp_path / "run", mixed_precision="bf16"))
    assert weights(model)["decoder.project.0.weight"].dtype == torch.float32
    train(config(tmp_path / "full"))
    half, full = losses(tmp_path / "run"), losses(tmp_path / "full")
    assert half != full
    assert half[-1][1] == pytest.approx(full[-1][1], rel=0.1)


def test_the_verb_trains_a_third_partys_objective_by_name(tmp_path, capsys):
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir()
    for index in range(3):
        Image.new("RGB", (20 + index, 30), (80 * index, 40, 200)).save(images / f"{index}.png")
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: sandbox+sandbox(dim=5)\n"
        "objective: colours(side=16)\n"
        f"data: {images}\nout: {tmp_path / 'run'}\nsteps: 3\nbatch_size: 2\noptimizer: {{lr: 1e-3}}\n"
    )
    for words in ([file, "seed=2", "--dry-run"], [file, "--dry-run", "seed=2"], ["--dry-run", file]):
        assert cli.main(["train", *map(str, words)]) == 0
        assert "two steps" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert cli.main(["train", str(file), "--dry-run", "resume=state"]) == 2
    assert "resume=state and a dry run, which begins at the start" in capsys.readouterr().err
    assert cli.main(["train", "--dry-run", "steps=3"]) == 2
    assert "train needs a preset or a YAML file" in capsys.readouterr().err
    assert cli.main(["train", str(file), "steps=4", "objective.args.side=24"]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == str(tmp_path / "run" / "model")
    assert "step 4/4: loss" in captured.err
    assert TrainConfig.load(tmp_path / "run" / "config.yaml").objective.args == {"side": 24}
    assert AutoDenseModel.from_pretrained(tmp_path / "run" / "model").dim == 5
    assert cli.main(["train", str(file), "stepz=4"]) == 2
    assert "unknown key(s) stepz" in capsys.readouterr().err


@pytest.mark.parametrize(("draw", "refused"), [("", False), ("python", True), ("numpy", True), ("torch", True)])
def test_random_numbers_of_any_generator_count_as_drawn(tmp_path, draw, refused):
    changes = {"objective": {"name": "sandbox", "args": {"draw": draw}}}
    train(config(tmp_path / "run", steps=2, **changes))
    again = config(tmp_path / "run", steps=3, accumulate=2, **changes)
    with pytest.raises(ConfigError, match="draws random numbers for each part") if refused else nullcontext():
        train(again)


def test_parts_with_other_losses_are_refused(tmp_path):
    changes = {"objective": {"name": "sandbox", "args": {"extra": True}}}
    train(config(tmp_path / "one", steps=2, **changes))
    with pytest.raises(ContractError, match=r"a batch logs \['clip-\d', 'drawn', 'mse'\], another one \['clip-"):
        train(config(tmp_path / "two", steps=2, accumulate=2, **changes))
