"""Trained probes: the attention head against FlowFeat's, losses by hand, training that stops and goes on."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from dense_ctx_probes.heads import AttentionHead, ConvHead
from dense_ctx_probes.losses import bin_centres, regression_loss
from torch.nn import functional

from dense_ctx import registry
from dense_ctx.errors import InputError, NotFittedError
from dense_ctx.interfaces import DenseFeatures

ORACLES = Path(__file__).parent / "oracles"
H, W = 8, 12


def features(seed=0, batch=2, dims=(6, 10), extent=(1.0, 1.0)):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(batch, dims[0], H, W, generator=generator)
    return DenseFeatures(pixels, torch.randn(batch, dims[1], H // 4, W // 4, generator=generator), None, extent)


def targets(seed=0, batch=2, classes=3, size=(H, W)):
    return torch.randint(0, classes, (batch, *size), generator=torch.Generator().manual_seed(seed))


def probe(name="conv", task="segmentation", **args):
    return registry().create("probe", name, task=task, **args)


@pytest.mark.parametrize("case", ["nonorm", "norm_ds2"])
def test_attention_head_equals_flowfeats(case):
    data = np.load(ORACLES / f"attention_probe_{case}.npz")
    state = {key[3:]: torch.from_numpy(data[key]) for key in data if key.startswith("sd.")}
    x = torch.from_numpy(data["x"]).requires_grad_()
    queries, dim = state["queries"].shape[1:]
    head = AttentionHead(dim, queries, int(data["num_heads"]), int(data["downscale"]), bool(data["with_norm"]))
    head.load_state_dict(state)
    out = head(x)
    np.testing.assert_allclose(out.detach(), data["out"], rtol=0, atol=1e-5)
    out.square().mean().backward()
    largest = np.abs(data["grad_x"]).max()
    np.testing.assert_allclose(x.grad, data["grad_x"], rtol=0, atol=1e-4 * largest)


def test_attention_head_is_checked():
    with pytest.raises(InputError, match="heads=8 must divide the 12 channels"):
        AttentionHead(12, 3)


def test_conv_head_adds_both_sources():
    both = ConvHead((6, 10), 3, "both", 5).eval()
    inputs = features()
    whole = both(inputs)
    assert whole.shape == (2, 3, H, W)
    pixels = both.pixels(inputs.pixels)
    patches = functional.interpolate(both.patches(inputs.patches), (H, W), mode="bilinear", align_corners=False)
    torch.testing.assert_close(whole, pixels + patches)
    assert both.pixels[1].kernel_size == (5, 5)
    assert both.patches[1].kernel_size == (1, 1)
    assert ConvHead((6, 10), 3, "pixels").patches is None
    assert ConvHead((6, 10), 3, "patches").pixels is None


@pytest.mark.parametrize(("name", "args"), [("conv", {}), ("attention", {}), ("zero-shot", {"embeddings": "random"})])
@pytest.mark.parametrize("reads", ["pixels", "patches", "both"])
def test_every_probe_reads_what_it_is_told(name, args, reads):
    inputs = features()
    estimator = probe(name, reads=reads, updates=3, **args).partial_fit(inputs, targets())
    out = estimator.predict(inputs)
    assert out.shape == (2, 3, H, W)
    other = features(1)
    decoder, encoder = DenseFeatures(other.pixels, inputs.patches), DenseFeatures(inputs.pixels, other.patches)
    assert torch.equal(estimator.predict(decoder), out) == (reads == "patches")
    assert torch.equal(estimator.predict(encoder), out) == (reads == "pixels")


@pytest.mark.parametrize("kernel", [1, 5])
def test_directions_start_at_the_mean_whatever_the_width(kernel):
    """Weights of a fixed size drown it: 25 x 400 of them summed to a direction at random."""
    inputs = features(dims=(400, 10))
    mean = functional.normalize(torch.tensor([0.2, -0.5, -1.0]), dim=0)
    noise = 0.1 * torch.randn(2, 3, H, W, generator=torch.Generator().manual_seed(1))
    normals = functional.normalize(mean[:, None, None] + noise, dim=1)
    begun = probe(task="regression", kernel=kernel, loss="cosine", updates=1, lr=1e-9).partial_fit(inputs, normals)
    cosine = (begun.predict(inputs) * mean[:, None, None]).sum(1)
    assert float(cosine.mean()) > 0.95


def test_regression_losses_by_hand():
    rng = np.random.default_rng(0)
    p, t = rng.uniform(0.5, 5, (2, 1, 4, 6)), rng.uniform(0.5, 5, (2, 1, 4, 6))
    t[0, 0, :2] = np.nan
    valid = np.isfinite(t)
    d = np.log(p[valid]) - np.log(t[valid])
    expected = {
        "mse": ((p - t)[valid] ** 2).mean(),
        "l1": abs((p - t)[valid]).mean(),
        "silog": np.sqrt((d**2).mean() - 0.85 * d.mean() ** 2),
    }
    for loss, value in expected.items():
        result = regression_loss(torch.from_numpy(p).float(), torch.from_numpy(t).float(), loss)
        assert float(result) == pytest.approx(value, rel=1e-5), loss
    a, b = rng.normal(size=(2, 2, 3, 4, 6))
    b[1, :, 3] = np.nan
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    result = regression_loss(torch.from_numpy(a).float(), torch.from_numpy(b).float(), "cosine")
    assert float(result) == pytest.approx(1 - np.nanmean(cosine), rel=1e-5)


def test_bins_are_a_mean_over_centres():
    centres = bin_centres(4, 1.0, 9.0)
    torch.testing.assert_close(centres, torch.tensor([2.0, 4.0, 6.0, 8.0]))
    estimator = probe(task="regression", loss="silog", bins=4, low=1.0, high=9.0, updates=2)
    depth = torch.rand(2, 1, H, W, generator=torch.Generator().manual_seed(0)) * 4 + 2
    out = estimator.partial_fit(features(), depth).predict(features())
    assert out.shape == (2, 1, H, W)
    assert (out >= 2).all()
    assert (out <= 8).all()  # a mean of centres stays between them
    expected = (estimator.head_(features()).softmax(1) * centres[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(
    ("task", "args"),
    [
        ("segmentation", {}),
        ("regression", {"loss": "cosine"}),
        ("regression", {"loss": "silog"}),
        ("regression", {"loss": "l1"}),
    ],
)
@pytest.mark.parametrize("name", ["conv", "attention"])
def test_a_saved_probe_trains_on_to_the_bit(name, task, args):
    def batch(step):
        if task == "segmentation":
            return features(step), targets(step)
        count = 3 if args["loss"] == "cosine" else 1
        generator = torch.Generator().manual_seed(step)
        return features(step), torch.rand(2, count, H, W, generator=generator) + 0.5

    options = {**args, "updates": 1, "replay": 0, "total_steps": 8}
    options |= {"classes": 3} if task == "segmentation" else {}
    whole, first = (probe(name, task, **options) for _ in range(2))
    for step in range(8):
        whole.partial_fit(*batch(step))
    for step in range(3):
        first.partial_fit(*batch(step))
    second = probe(name, task, **options)
    second.load_state_dict({key: value.clone() for key, value in first.state_dict().items()})
    for step in range(3, 8):
        second.partial_fit(*batch(step))
    one, two = whole.state_dict(), second.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.gpu
def test_a_probe_loaded_on_the_cpu_trains_on_where_its_features_are():
    def there(step):
        inputs = features(step)
        return DenseFeatures(inputs.pixels.cuda(), inputs.patches.cuda()), targets(step)

    first = probe(updates=1, replay=0, classes=3).partial_fit(*there(0))
    second = probe(updates=1, replay=0, classes=3)
    second.load_state_dict(first.state_dict())
    first.partial_fit(*there(1))
    second.partial_fit(*there(1))
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def test_the_schedule_warms_up_and_falls_to_nothing():
    estimator = probe(total_steps=100, updates=1, replay=0)
    rates = []
    for step in range(101):
        estimator.step_ = step
        rates.append(estimator._schedule())
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1
    assert all(a >= b for a, b in pairwise(rates[5:]))
    assert rates[100] == pytest.approx(0, abs=1e-9)
    assert probe()._schedule() == 1


def test_targets_may_be_finer_than_the_grid():
    estimator = probe(updates=2, classes=3)
    estimator.partial_fit(features(), targets(size=(16, 25)))
    assert estimator.predict(features(), size=(16, 25)).shape == (2, 3, 16, 25)


def test_seeds_are_the_probes_own_and_leave_the_global_one_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    weights = []
    for seed in (0, 0, 1):
        estimator = probe(seed=seed, updates=1).partial_fit(features(), targets())
        weights.append(estimator.state_dict()["head.pixels.1.weight"])
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("conv", {"reads": "all"}, "reads is 'all'; expected one of pixels"),
        ("conv", {"loss": "best"}, "loss is 'best'; expected one of mse"),
        ("conv", {"kernel": 4}, "kernel=4, .*odd"),
        ("conv", {"norm": "layer"}, "norm is 'layer'; expected one of batch, none"),
        ("conv", {"lr": 0.0}, "lr=0.0"),
        ("conv", {"updates": 0}, "updates=0"),
        ("conv", {"kernal": 3}, r"unknown key\(s\) kernal \(did you mean kernel\?\); known: bins, .*, weight_decay"),
        ("attention", {"kernel": 3}, r"unknown key\(s\) kernel; known: bins, classes, downscale, heads, high, loss, "),
        ("attention", {"heads": 0}, "heads=0"),
        ("zero-shot", {"task": "regression"}, "task='segmentation' only"),
        ("propagation", {"task": "regression"}, "task='segmentation' only"),
    ],
)
def test_arguments_are_checked(name, args, message):
    with pytest.raises(InputError, match=message):
        probe(name, **args)


def test_input_is_checked():
    estimator = probe(classes=3, updates=1)
    with pytest.raises(NotFittedError, match="not trained"):
        estimator.predict(features())
    with pytest.raises(InputError, match="A target holds class 4; the probe was made for 3 classes"):
        estimator.partial_fit(features(), targets() + 2)
    with pytest.raises(InputError, match="every target is ignored"):
        estimator.partial_fit(features(), torch.full((2, H, W), -1))
    estimator.partial_fit(features(), targets())
    with pytest.raises(InputError, match=r"features of \(6, 10\) channels \(pixels, patches\); got \(7, 10\)"):
        estimator.partial_fit(features(dims=(7, 10)), targets())
    broken = DenseFeatures(features().pixels * torch.nan, features().patches)
    with pytest.raises(InputError, match=r"The probe's loss is nan at step .*lower lr"):
        estimator.partial_fit(broken, targets())


# ---------------------------------------------------------------------- propagation


def test_propagation_follows_a_moving_object_and_starts_anew_with_fit():
    def frame(shift):
        labels = torch.zeros(1, H, W, dtype=torch.long)
        labels[:, 2:6, 1 + shift : 5 + shift] = 1
        generator = torch.Generator().manual_seed(shift)
        pixels = functional.one_hot(labels, 6).permute(0, 3, 1, 2).float()
        return DenseFeatures(pixels + 0.05 * torch.randn(pixels.shape, generator=generator), pixels), labels

    estimator = probe("propagation", n_last_frames=2, size_mask_neighborhood=2)
    estimator.partial_fit(*frame(0))
    for shift in range(1, 6):  # in steps of one pixel, within the window; in the end far beyond it
        given, labels = frame(shift)
        assert (estimator.predict(given).argmax(1) == labels).float().mean() > 0.97
    fresh = probe("propagation", n_last_frames=2, size_mask_neighborhood=2)
    fresh.load_state_dict(estimator.state_dict())
    again = probe("propagation", n_last_frames=2, size_mask_neighborhood=2).partial_fit(*frame(0))
    assert torch.equal(fresh.predict(frame(1)[0]), again.predict(frame(1)[0]))


def test_propagation_votes_are_those_of_dinos_recipe():
    """Features and first labels of the recorded clip; the probe's largest vote is the recorded label map."""
    data = np.load(ORACLES / "vos_knn.npz")
    clip, first = torch.from_numpy(data["features"]), torch.from_numpy(data["first_labels"]).long()
    estimator = probe("propagation")
    estimator.partial_fit(DenseFeatures(clip[:1], clip[:1]), first[None])
    out = estimator.predict(DenseFeatures(clip[1:], clip[1:]), size=(20 * 8, 30 * 8))
    native = out.argmax(1)
    hw = data["seg_fullres"].shape[1:]
    rows, columns = (((torch.arange(n) + 0.5) * m / n).long() for n, m in zip(hw, native.shape[1:], strict=True))
    same = (native[:, rows][:, :, columns].numpy() == data["seg_fullres"][1:]).mean()
    assert same > 0.999


def test_propagation_input_is_checked():
    estimator = probe("propagation")
    with pytest.raises(NotFittedError, match="No annotated frame"):
        estimator.predict(features())
    with pytest.raises(NotFittedError):
        estimator.state_dict()
    with pytest.raises(InputError, match="every target is ignored"):
        estimator.partial_fit(features(), torch.full((2, H, W), -1))
    estimator.partial_fit(features(), targets())
    wide = DenseFeatures(torch.rand(1, 6, H, W + 4), torch.rand(1, 10, 2, 4))
    with pytest.raises(InputError, match="Annotated frames of one clip have one grid"):
        estimator.partial_fit(wide, torch.zeros(1, H, W + 4, dtype=torch.long))


# ---------------------------------------------------------------------- colour and position


def test_colour_and_position_are_what_they_say():
    from dense_ctx.model import AutoDenseModel

    model = AutoDenseModel.from_parts("rgb-xy", "upsample", decoder_args={"normalize": False})
    image = torch.rand(1, 3, 10, 15)
    output = model(image).pixels[0]
    torch.testing.assert_close(output[:3], 2 * image[0] - 1)
    torch.testing.assert_close(output[3], ((torch.arange(15) + 0.5) * 2 / 15 - 1).expand(10, 15))
    torch.testing.assert_close(output[4], ((torch.arange(10) + 0.5) * 2 / 10 - 1)[:, None].expand(10, 15))
