"""torch.compile of a training step: one graph for each objective, the same losses and gradients."""

import copy
import subprocess
import sys

import pytest
import torch
from compiled_steps import compiled, dip, gradients, lila, maxa, model_of, same, step_of
from maxa_scenes import KINDS
from torch import _dynamo, distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel
from train_parts import config, install, rows

from dense_ctx import AutoDenseModel
from dense_ctx.device import end_process_group
from dense_ctx.errors import ConfigError, InputError
from dense_ctx.interfaces import Losses, Objective
from dense_ctx.train import TrainConfig, TrainStep, train


@pytest.fixture
def eager_calls(monkeypatch):
    """How often a step is computed without its graph."""
    calls, real = [], TrainStep._losses

    def counted(self, batch):
        if not torch.compiler.is_compiling():
            calls.append(batch)
        return real(self, batch)

    monkeypatch.setattr(TrainStep, "_losses", counted)
    return calls


def test_lila_is_one_graph_and_an_ill_conditioned_batch_is_solved_without_it(tmp_path, eager_calls):
    step, batches = step_of(*lila(tmp_path))
    reference = [gradients(step, batch) for batch in batches]
    counter = compiled(step, "eager")
    eager_calls.clear()
    for batch, each in zip(batches, reference, strict=True):
        same(step, batch, each)
    assert (counter.frame_count, len(eager_calls)) == (1, 0)
    with torch.no_grad():
        step.model.decoder.norm.weight.mul_(1e5)  # the penalty is lost beside the features
    step.compiled = False
    reference = gradients(step, batches[0])
    step.compiled = True
    eager_calls.clear()
    same(step, batches[0], reference)
    assert (counter.frame_count, len(eager_calls)) == (1, 1)


def test_dip_is_one_graph_and_labels_out_of_range_are_refused_after_it(tmp_path, eager_calls):
    step, batches = step_of(*dip(tmp_path, out=16, hidden=1, train="blocks", blocks=1))
    few = {key: batches[1][key].clamp_max(2) for key in ("query_labels", "positive_labels")}
    batches[1] = {**batches[1], **few, "present": [0, 1, 2]}
    assert batches[0]["present"] == [0, 1, 2, 3]
    reference = [gradients(step, batch) for batch in batches]
    counter = compiled(step, "eager")
    eager_calls.clear()
    for batch, each in zip(batches, reference, strict=True):
        same(step, batch, each)
    assert len(eager_calls) == 0
    assert counter.frame_count <= 2  # another number of classes
    labels = batches[0]["query_labels"].clone()
    labels[0, 0, 0] = 9
    with pytest.raises(InputError, match="label ids run up to 9; expected 0 to 3"):
        step({**batches[0], "query_labels": labels})


def test_maxa_is_one_graph(tmp_path, eager_calls):
    step, batches = step_of(*maxa(tmp_path))
    reference = [gradients(step, batch) for batch in batches]
    counter = compiled(step, "eager")
    eager_calls.clear()
    for batch, each in zip(batches, reference, strict=True):
        same(step, batch, each)
    assert (counter.frame_count, len(eager_calls)) == (1, 0)


DEPTH = "depth:depth-anything-v2-small(weights=null, side=70)"
CASES = {
    "lila": lila,
    "lila, cue network": lambda folder, vit: lila(folder, vit, cues=["features", DEPTH]),
    "lila, projected": lambda folder, vit: lila(folder, vit, features={"project": 5}),
    "lila, FlowFeat's loss": lambda folder, vit: lila(folder, vit, loss={"fit": "l1", "edges": "l1norm"}),
    "lila, ema": lambda folder, vit: lila(folder, vit, context="ema"),
    "lila, erm": lambda folder, vit: lila(folder, vit, regression={}, mode="erm"),
    "dip": dip,
    "dip, nll": lambda folder, vit: dip(folder, vit, loss="nll", distractors=2),
    "dip, direct": lambda folder, vit: dip(folder, vit, loss="nll", direct=True),
    **{f"maxa {task}": lambda folder, vit, task=task: maxa(folder, vit, task) for task in KINDS},
    "maxa, cached": lambda folder, vit: maxa(folder, vit, "semantic", cache=True),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_each_setting_is_one_graph_forward_and_backward(tmp_path, name, eager_calls):
    step, batches = step_of(*CASES[name](tmp_path, True))
    _dynamo.reset()
    explained = _dynamo.explain(step._losses)(step.objective.prepare(step.model, batches[0]))
    assert [reason.reason for reason in explained.break_reasons] == []
    assert explained.graph_count == 1
    reference = [gradients(step, batch) for batch in batches]
    counter = compiled(step, "aot_eager")
    eager_calls.clear()
    for batch, each in zip(batches, reference, strict=True):
        same(step, batch, each)
    assert counter.frame_count <= (2 if "dip" in name else 1)
    assert not eager_calls


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lila", "dip", "maxa depth", "maxa instances"])
def test_the_compilers_code_computes_the_same(tmp_path, name, eager_calls):
    step, batches = step_of(*CASES[name](tmp_path, True), batch_size=2)
    reference = gradients(step, batches[0])
    compiled(step, "inductor")
    eager_calls.clear()
    same(step, batches[0], reference)
    assert not eager_calls


def _worker(rank, folder, backend):
    from pathlib import Path

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet{backend}", rank=rank, world_size=2)
    torch.manual_seed(0)
    own = Path(folder) / f"{rank}{backend}"
    own.mkdir()
    step, batches = step_of(*dip(own, out=16, hidden=1, train="blocks", blocks=1))
    wrapped = DistributedDataParallel(step)
    if backend:
        step.compile(backend)
    losses = wrapped(batches[rank])
    losses.total.backward()
    grads = {name: p.grad for name, p in step.named_parameters() if p.grad is not None}
    torch.save({"loss": losses.total.detach(), **grads}, own / "result.pt")
    del wrapped, step
    end_process_group()


@pytest.mark.slow
def test_a_joint_batch_of_two_processes_is_compiled(tmp_path):
    for backend in ("", "aot_eager"):
        multiprocessing.spawn(_worker, (str(tmp_path), backend), nprocs=2)
    for rank in (0, 1):
        one, two = (torch.load(tmp_path / f"{rank}{backend}" / "result.pt") for backend in ("", "aot_eager"))
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------ the training loop


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    install(tmp_path / "site", monkeypatch)


@pytest.fixture
def quick(monkeypatch):
    """The loop compiles without the slow code generator; how often a graph was made."""
    _dynamo.reset()
    counter = _dynamo.testing.CompileCounterWithBackend("eager")
    real = TrainStep.compile
    monkeypatch.setattr(TrainStep, "compile", lambda self: real(self, counter))
    return counter


def test_a_run_is_compiled_where_it_is_asked_for_and_goes_on_either_way(tmp_path, plugin, quick, eager_calls):
    settings = {"steps": 4, "accumulate": 2, "save": {"every": 2}}
    train(config(tmp_path / "plain", **settings))
    assert (quick.frame_count, len(eager_calls)) == (0, 8)
    train(config(tmp_path / "run", compile=True, **settings))
    assert (quick.frame_count, len(eager_calls)) == (1, 8)
    plain, fast = ([row["loss"] for row in rows(tmp_path / name)] for name in ("plain", "run"))
    assert fast == pytest.approx(plain, rel=1e-5)
    model = AutoDenseModel.from_pretrained(tmp_path / "run" / "model")
    assert model.model_config.trained_with["config"]["compile"] is True
    assert TrainConfig.load(tmp_path / "run" / "config.yaml").compile
    train(config(tmp_path / "run", **{**settings, "steps": 5}))  # without, from its state
    assert len(eager_calls) == 10
    train(config(tmp_path / "plain", compile=True, **{**settings, "steps": 5}))
    assert len(eager_calls) == 10
    assert rows(tmp_path / "run")[-1]["loss"] == pytest.approx(rows(tmp_path / "plain")[-1]["loss"], rel=1e-5)


class Branching:
    """The sandbox's objective with a branch that depends on a value."""

    def __new__(cls):
        from sandbox_train.parts import Shift

        class Objective(Shift):
            def forward(self, model, batch):
                loss = self.head.weight.square().sum()
                if "image" in batch and batch["image"].ndim != 4:
                    raise InputError("no batch of images")
                return Losses(loss * (2 if loss > 1e9 else 1), {})

        return Objective()


def test_what_is_no_graph_is_refused_with_its_place(tmp_path, plugin, quick):
    with pytest.raises(
        ConfigError, match=r'^compile: Data-dependent .* at ".*test_compile_steps.py", line \d+\. Leave'
    ):
        train(config(tmp_path / "run", compile=True), objective=Branching())


def test_a_fault_of_a_batch_is_not_the_compilers(tmp_path, plugin, quick):
    from dense_ctx.testing import tiny_model

    step = TrainStep(tiny_model(), Branching(), ())
    step.compile()
    with pytest.raises(InputError, match="no batch of images"):
        step({"image": torch.zeros(2, 3, 4)})


def test_assumptions_that_fail_are_said(tmp_path, plugin, quick, eager_calls):
    from dense_ctx.numerics import holds

    def forward(self, model, batch):
        loss = self.head.weight.square().sum()
        return Losses(loss if holds(loss > 1e9) else 2 * loss, {})

    from sandbox_train.parts import Shift

    def objective():
        torch.manual_seed(0)
        return type("Doubtful", (Shift,), {"forward": forward})()

    with pytest.warns(UserWarning, match="what its graph assumes of values does not hold"):
        train(config(tmp_path / "run", compile=True, steps=1), objective=objective())
    assert (quick.frame_count, len(eager_calls)) == (1, 1)
    loss = rows(tmp_path / "run")[0]["loss"]
    train(config(tmp_path / "plain", steps=1), objective=objective())
    assert loss == pytest.approx(rows(tmp_path / "plain")[0]["loss"], rel=1e-5)


@pytest.mark.parametrize("left", ["an assumption", "the compiler"])
def test_batch_norm_counts_a_batch_once_where_its_graph_is_left(left):
    from torch._dynamo.exc import TorchDynamoException

    from dense_ctx.numerics import holds

    class Doubtful(Objective):
        def dataset(self, data):
            return data

        def setup(self, model, dataset, *, fresh):
            return [{"params": list(model.decoder.parameters())}]

        def forward(self, model, batch):
            features, padded = model.encode(batch["image"])
            loss = model.decoder(features, padded, (16, 24)).square().mean()
            return Losses(loss if holds(loss > 1e9) else 2 * loss, {})

    def failing(graph, inputs):
        def run(*args):
            graph(*args)
            raise TorchDynamoException("out of registers")

        return run

    step = TrainStep(model_of("loftup", False, heads=2), Doubtful(), ()).train()
    before, batch = copy.deepcopy(step.state_dict()), {"image": torch.rand(2, 3, 16, 24)}
    alone = copy.deepcopy(step)
    reference = alone(batch)
    changed = [key for key, value in alone.state_dict().items() if not torch.equal(value, before[key])]
    assert any("num_batches_tracked" in key for key in changed)
    _dynamo.reset()
    step.compile("eager" if left == "an assumption" else failing)
    if left == "the compiler":
        with pytest.raises(ConfigError, match="compile: out of registers"):
            step(batch)
        torch.testing.assert_close(step.state_dict(), before, rtol=0, atol=0)
    else:
        torch.testing.assert_close(step(batch).total, reference.total)
        torch.testing.assert_close(step.state_dict(), alone.state_dict())


@pytest.mark.slow
def test_a_machine_without_a_c_compiler_is_said(tmp_path, plugin, monkeypatch):
    import torch._inductor.config as inductor

    _dynamo.reset()
    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    with pytest.raises(ConfigError, match="compile: InvalidCxxCompiler: No working C\\+\\+ compiler found"):
        train(config(tmp_path / "run", compile=True))


@pytest.mark.slow
def test_the_verb_compiles(tmp_path):
    (tmp_path / "clips").mkdir()
    lila(tmp_path / "clips")
    out = tmp_path / "run"
    sizes = {"size": 64, "map_size": 32, "frame_side": 80, "cue_side": 80}
    words = ["lila-lite0", f"data={tmp_path / 'clips'}", f"out={out}", "steps=2", "batch_size=2", "compile=true",
             "objective.args.start=0", *(f"objective.args.sampling.{key}={value}" for key, value in sizes.items()),
             "average.start=0", "log=1"]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "dense_ctx.cli", "train", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "compile: true" in (out / "config.yaml").read_text()
