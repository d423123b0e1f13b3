"""LILA's Triton kernels against the eager form, and when they are chosen; products of every precision."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from dense_ctx_lila import fused, matching_op, spreading
from dense_ctx_lila.matching import Matching
from dense_ctx_lila.matching_op import linear_matching
from dense_ctx_lila.objective import LilaObjective
from dense_ctx_lila.pamr import affinity, refine
from dense_ctx_lila.products import multiply
from dense_ctx_lila.regression import Regression
from dense_ctx_lila.targets import Targets
from lila_forms import SHAPES, given, noise

from dense_ctx.errors import ConfigError
from dense_ctx.testing import tiny_model


@pytest.mark.parametrize(
    "which", ["shape1 or 1-dilations", pytest.param("not (shape1 or 1-dilations)", marks=pytest.mark.slow)]
)
def test_kernels_are_the_eager_form_in_the_interpreter(which):
    """Each case is in tests/lila_interpreter_cases.py."""
    pytest.importorskip("triton")
    cases = Path(__file__).with_name("lila_interpreter_cases.py")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases), "-k", which]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


# ---------------------------------------------------------------------- the choice


def test_kernels_are_for_plain_float32_on_cuda(monkeypatch):
    def error(device, products, width, dtype):
        asked.append((products, width, dtype))
        return 0.0

    asked = []

    fused._agrees.cache_clear()
    assert not fused.usable(error, noise(2))
    monkeypatch.setattr(fused, "DEVICES", ("cpu",))
    assert fused.usable(error, noise(2))
    for shape, dtype in (((3, 192), torch.float32), ((3, 250), torch.float32), ((3, 770), torch.float32),
                         ((3, 20), torch.bfloat16)):  # fmt: skip
        assert fused.usable(error, noise(*shape).to(dtype), products="tf32")
    # each kernel that is used is checked, once
    assert asked == [
        ("float32", 16, torch.float32), ("tf32", 256, torch.float32), ("tf32", 32, torch.bfloat16),
    ]  # fmt: skip
    assert not fused.usable(error, noise(2).double())
    assert not fused.usable(error, noise(2), torch.nn.Parameter(noise(2)))
    monkeypatch.setenv(fused.SWITCH, "0")
    assert not fused.usable(error, noise(2))
    monkeypatch.setenv(fused.SWITCH, "no")
    with pytest.raises(ConfigError, match="DENSE_CTX_TRITON='no': 0 leaves the Triton kernels out"):
        fused.usable(error, noise(2))
    fused._agrees.cache_clear()


@pytest.mark.parametrize(
    ("error", "words"), [(0.5, "differ from PyTorch's result by 5e-01"), (float("nan"), "by nan"), (None, "no driver")]
)
def test_kernels_that_fail_or_differ_are_left_out_with_a_warning(monkeypatch, error, words):
    def check(device, products, width, dtype):
        if error is None:
            raise RuntimeError("no driver")
        return error

    monkeypatch.setattr(fused, "DEVICES", ("cpu",))
    with pytest.warns(UserWarning, match=f"not used on cpu, which takes longer: .*{words}"):
        assert not fused.usable(check, noise(2))
    assert not fused.usable(check, noise(2))  # once a device


@pytest.mark.parametrize(("room", "features"), [(227, 256), (163, 256), (99, 128), (64, 128)])
def test_a_program_has_the_features_that_shared_memory_holds(monkeypatch, room, features):
    card = types.SimpleNamespace(shared_memory_per_block_optin=room * 1024)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    fused._widest.cache_clear()
    assert fused._widest(torch.device("cuda", 0)) == features
    fused._widest.cache_clear()


SHARED = {80: (256, 163), 86: (128, 99), 90: (256, 227)}  # features of a program, and KB that a block of a GPU has


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED)
def test_kernels_compile_for_nvidias_gpus(capability, tmp_path):
    """Triton's compiler and ptxas need no GPU; the interpreter does not see what they refuse."""
    pytest.importorskip("triton")
    architecture = f"sm_{capability}" + "a" * (capability == 90)
    code = f"""
import re
import subprocess
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dense_ctx_lila import fused, triton_loss, triton_stencil
assembler = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
whole = ("height", "width", "dim", "depth", "channels", "mixed", "tiles")
loss = dict(fused.TILE, DIM={SHARED[capability][0]})
cases = [(triton_loss.by_pixel, dict(loss, GRADIENT=True, PRECISION=p)) for p in ("ieee", "tf32", "bf16x3")]
cases += [(triton_loss.by_weight, dict(loss, PRECISION=p)) for p in ("ieee", "tf32", "bf16x3")]
cases += [(triton_stencil.iterate, dict(DILATIONS=(1, 3, 5), COUNT=3, PIXELS=64, BLOCK=64))]
for kernel, constants in cases:
    for features in ("*fp32", "*bf16"):
        kinds = {{name: "constexpr" if name in constants else "i32" if name in whole
                 else "fp32" if name in ("along", "down", "sigma")
                 else features if name in ("pixels", "d_pixels") else "*fp32" for name in kernel.arg_names}}
        done = triton.compile(ASTSource(kernel, kinds, constants), target=GPUTarget("cuda", {capability}, 32),
                              options=fused.launch_options())
        assert done.metadata.shared <= {SHARED[capability][1]} * 1024, done.metadata.shared
        Path("kernel.ptx").write_text(done.asm["ptx"])
        report = subprocess.run([assembler, "-v", "-arch={architecture}", "kernel.ptx", "-o", "kernel.cubin"],
                                capture_output=True, text=True, check=True).stderr
        spilled = sum(map(int, re.findall("([0-9]+) bytes spill", report)))
        assert spilled < 20_000, (kernel, constants, features, report)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


# ---------------------------------------------------------------------- the operations


def leaves(*shape):
    pixels, weights, bias, parts, shares = given(*shape)
    return *(each.requires_grad_() for each in (pixels, weights, bias)), *parts, shares


def test_the_operations_keep_pytorchs_rules():
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    checks = [
        (matching_op._matching, (*leaves(*SHAPES[0]), 0.3, 0.7, "float32", True)),
        (spreading.spread, (noise(2, 3, 4, 5).requires_grad_(), affinity(noise(2, 3, 8, 9), [1, 2]), [1, 2], 2)),
        (spreading.spread, (noise(2, 3, 8, 9).requires_grad_(), affinity(noise(2, 3, 8, 9), [1, 2]), [1, 2], 1)),
        (spreading._spread_back, (noise(2, 8, 9, 3), affinity(noise(2, 3, 8, 9), [1, 2]), [1, 2], 1, 8, 9)),
    ]  # fmt: skip
    for operation, arguments in checks:
        torch.library.opcheck(operation, arguments, test_utils=tests)


@pytest.mark.slow
def test_a_compiler_sees_one_graph_each():
    pixels, weights, bias, *parts, shares = leaves(*SHAPES[0])
    targets, image = Targets(*parts), noise(1, 3, 8, 9).sigmoid()

    def loss(pixels):
        return (
            linear_matching(pixels, weights, bias, targets, shares)[0] + refine(pixels.movedim(-1, 1)[:1], image).sum()
        )

    expected = torch.autograd.grad(loss(pixels), (pixels, weights, bias))
    grads = torch.autograd.grad(
        torch.compile(loss, backend="aot_eager", fullgraph=True)(pixels), (pixels, weights, bias)
    )
    torch.testing.assert_close(grads, expected)


# ---------------------------------------------------------------------- precision


@pytest.mark.parametrize(
    ("products", "least", "most"), [("float32", 0, 1e-6), ("tf32", 1e-4, 1e-3), ("bf16x3", 1e-6, 2e-5)]
)
def test_the_error_of_a_product(products, least, most):
    left, right = noise(50, 300), noise(300, 40, seed=1)
    exact = left.double() @ right.double()
    product = multiply(left, right, products)
    assert least <= float((product - exact).norm() / exact.norm()) <= most
    place = torch.empty_like(product)
    assert multiply(left, right, products, place) is place
    assert torch.equal(place, product)


def test_what_a_product_rounds():
    one = torch.ones(1, 1)
    for value, rounded in (
        (1 + 2.0**-11, 1 + 2.0**-10),
        (1 + 2.0**-12, 1.0),
        (-1 - 2.0**-11, -1 - 2.0**-10),
        (3.0, 3.0),
    ):
        assert float(multiply(torch.full((1, 1), value), one, "tf32")) == rounded
    assert float(multiply(torch.full((1, 1), 1 + 2.0**-12), one, "bf16x3")) == 1 + 2.0**-12
    assert float(multiply(torch.full((1, 1), 1 + 2.0**-20), one, "bf16x3")) != 1


def test_the_setting_changes_the_loss_by_its_error():
    pixels, weights, bias, *parts, shares = leaves(*SHAPES[0])
    totals = {name: float(linear_matching(pixels, weights, bias, Targets(*parts), shares, products=name)[0].detach())
              for name in ("float32", "tf32", "bf16x3")}  # fmt: skip
    assert 1e-7 < abs(totals["tf32"] / totals["float32"] - 1) < 1e-3
    assert 0 < abs(totals["bf16x3"] / totals["float32"] - 1) < 2e-5
    batch = {key: noise(1, 3, 16, 16, seed=seed).sigmoid() for seed, key in enumerate(("context", "query"))}
    losses = []
    for products in ("float32", "tf32"):
        objective = LilaObjective(
            cues=["features"], sampling={"size": 16}, regression=Regression(stride=1, products=products)
        )
        model = tiny_model()
        objective.setup(model, (), fresh=True)
        losses.append(float(objective(model, batch).total.detach()))
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


@pytest.mark.parametrize("products", ["float32", "tf32", "bf16x3"])
def test_a_product_has_the_gradient_of_its_factors(products):
    left, right = noise(5, 30).requires_grad_(), noise(30, 4, seed=1).requires_grad_()
    weights = noise(5, 4, seed=2)
    ours = torch.autograd.grad((multiply(left, right, products) * weights).sum(), (left, right))
    expected = torch.autograd.grad((left @ right * weights).sum(), (left, right))
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("products", ["float32", "tf32", "bf16x3"])
def test_a_product_of_nan_is_nan_whatever_its_bits(products):
    for bits in (0x7FC00000, 0x7FFFFFFF, -1):  # CUDA's own is the second
        bad = torch.tensor([[bits]], dtype=torch.int32).view(torch.float32)
        assert multiply(bad, torch.ones(1, 1), products).isnan()
        assert multiply(torch.ones(1, 1), bad, products).isnan()


@pytest.mark.parametrize("loss", [{}, {"fit": "l2"}, {"edges": "l1norm"}])
def test_every_form_of_the_loss_has_the_gradient_of_float32(loss):
    pixels, weights, bias, *parts, shares = leaves(*SHAPES[0])
    grads = {}
    for products in ("float32", "tf32", "bf16x3"):
        total = Matching(**loss).linear(pixels, weights, bias, Targets(*parts), shares, 0.3, 0.7, products)[0]
        grads[products] = torch.autograd.grad(total, (pixels, weights, bias))
    for products in ("tf32", "bf16x3"):
        for one, two in zip(grads[products], grads["float32"], strict=True):
            assert float((one - two).norm() / two.norm()) < 0.05  # signs of an L1 may differ


def test_a_scaled_loss_of_float16_features_has_its_gradient():
    """As GradScaler has it: the gradient of the loss itself is below float16's least number, 6e-8."""
    pixels, weights, bias, *parts, shares = leaves(*SHAPES[0])
    half, grads = pixels.detach().half(), []
    for one in (half, half.float()):
        total = linear_matching(one.requires_grad_(), weights, bias, Targets(*parts), shares * 1e-7)[0]
        grads.append(torch.autograd.grad(total * 2.0**20, one)[0])
    assert grads[0].dtype == torch.float16
    assert float(grads[1].abs().max()) > 1e-4
    assert float((grads[0] - grads[1]).norm() / grads[1].norm()) < 1e-2
