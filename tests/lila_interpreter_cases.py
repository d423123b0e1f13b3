"""LILA's Triton kernels in Triton's interpreter on the CPU; run by test_lila_kernels.py, in a process of their own.

Triton decides about its interpreter when it is imported, and torch may import it.
"""

import os
import warnings

import pytest
import torch
from dense_ctx_lila import fused, spreading
from dense_ctx_lila.losses import Sums
from dense_ctx_lila.objective import LilaObjective
from dense_ctx_lila.pamr import affinity
from lila_forms import SHAPES, given, noise

from dense_ctx.testing import tiny_model

assert os.environ["TRITON_INTERPRET"] == "1"


@pytest.mark.parametrize("gamma", [0.0, 0.7])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_loss_and_its_gradient_are_the_eager_ones(shape, gamma):
    """float32: to 1e-5 of the largest value of each result."""
    ours = fused.matching(*given(*shape), (0.3, gamma), "float32", True)
    for one, two in zip(ours, Sums(*given(*shape), (0.3, gamma), "float32", True).results, strict=True):
        assert one.shape == two.shape
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5 * max(float(two.abs().max()), 1e-30))


def test_features_in_bfloat16():
    """Values and sums as exact as from the same numbers in float32; the features' gradient is bfloat16."""
    ours = fused.matching(*given(*SHAPES[0], torch.bfloat16), (0.3, 0.7), "float32", True)
    eager = Sums(*given(*SHAPES[0], torch.bfloat16), (0.3, 0.7), "float32", True).results
    assert ours[3].dtype == eager[3].dtype == torch.bfloat16
    for index, (one, two) in enumerate(zip(ours, eager, strict=True)):
        torch.testing.assert_close(one, two, rtol=0, atol=(1e-2 if index == 3 else 1e-5) * float(two.abs().max()))


def test_the_gradient_of_float16_features_is_float32():
    ours = fused.matching(*given(*SHAPES[1], torch.float16), (0.3, 0.7), "float32", True)
    eager = Sums(*given(*SHAPES[1], torch.float16), (0.3, 0.7), "float32", True).results
    assert ours[3].dtype == eager[3].dtype == torch.float32
    torch.testing.assert_close(ours[3], eager[3])


def test_without_a_gradient_there_is_none():
    value = fused.matching(*given(*SHAPES[0]), (0.3, 0.7), "float32", True)[0]
    ours = fused.matching(*given(*SHAPES[0]), (0.3, 0.7), "float32", False)
    assert [each.numel() for each in ours[3:]] == [0, 0, 0]
    torch.testing.assert_close(ours[0], value)


@pytest.mark.parametrize("dilations", [[1], [1, 3, 5]])
@pytest.mark.parametrize("count", [1, 4])
def test_iterations_of_pamr_are_the_eager_ones(dilations, count):
    rows = noise(2, 7, 13, 70)
    weights = affinity(noise(2, 3, 7, 13).sigmoid(), dilations)
    before = rows.clone()
    ours = fused.stencil(rows, weights, dilations, count)
    torch.testing.assert_close(ours, spreading.sparse(rows, weights, dilations, count), rtol=1e-5, atol=1e-5)
    assert torch.equal(rows, before)


def test_a_step_by_kernels_is_the_eager_step(monkeypatch):
    """All of the objective, gradients too; the check before the first use is among it."""
    batch = {key: torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
             for seed, key in enumerate(("context", "query"))}  # fmt: skip
    batch |= {f"{key}/flow:dis": noise(1, 2, 16, 16, seed=seed) for seed, key in enumerate(("context", "query"))}
    results = []
    for switch in ("0", "1"):
        monkeypatch.setenv(fused.SWITCH, switch)
        monkeypatch.setattr(fused, "DEVICES", ("cpu",))
        model, calls = tiny_model(), []
        objective = LilaObjective(sampling={"size": 32, "map_size": 16}, regression={"stride": 3})
        objective.setup(model, (), fresh=True)
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("error")
            patch.setattr(
                fused, "matching", lambda *args, calls=calls, real=fused.matching: calls.append(1) or real(*args)
            )
            total = objective(model, batch).total
        total.backward()
        results.append((total, torch.cat([p.grad.flatten() for p in model.decoder.parameters()])))
        assert len(calls) == (2 if switch == "1" else 0)  # the check, and the step
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_a_kernel_that_computes_something_else_is_noticed(monkeypatch):
    real = fused.matching
    block = torch.device("cpu"), "float32", 32, torch.float32
    assert fused.matching_error(*block) < 1e-5
    assert fused.stencil_error(*block) < 1e-5
    assert fused.matching_error(*block[:3], torch.bfloat16) < 5e-3
    for index in range(6):

        def wrong(*args, index=index):
            return [1.1 * each if place == index else each for place, each in enumerate(real(*args))]

        monkeypatch.setattr(fused, "matching", wrong)
        assert fused.matching_error(*block) > 0.05
    monkeypatch.setattr(fused, "matching", lambda *args: [each + torch.nan for each in real(*args)])
    assert not fused.matching_error(*block) < fused.LIMIT


def test_a_kernel_that_fails_at_the_width_of_the_features_is_left_out(monkeypatch):
    """Of a GPU with too little shared memory: kernels of fewer features would fit."""
    from dense_ctx_lila import triton_loss

    real = triton_loss.by_weight

    class TooWide:
        def __getitem__(self, grid):
            def launch(*args, **options):
                if options["DIM"] > 32:
                    raise RuntimeError("out of resource: shared memory")
                return real[grid](*args, **options)

            return launch

    monkeypatch.setattr(fused, "DEVICES", ("cpu",))
    monkeypatch.setattr(triton_loss, "by_weight", TooWide())
    fused._agrees.cache_clear()
    assert fused.usable(fused.matching_error, noise(1, 2, 2, 20))
    with pytest.warns(UserWarning, match="out of resource: shared memory"):
        assert not fused.usable(fused.matching_error, noise(1, 2, 2, 40))
    fused._agrees.cache_clear()
