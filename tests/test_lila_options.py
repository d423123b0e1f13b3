"""LILA's options beyond the paper: a check of flow, synthetic motion, refined cues, an anchor to the start."""

import random

import pytest
import torch
from dense_ctx_lila.anchor import anchor_loss
from dense_ctx_lila.cue_targets import CueMaps
from dense_ctx_lila.cues.base import Cue, create_cue
from dense_ctx_lila.cues.flow import consistency
from dense_ctx_lila.feature_cue import FeatureCue
from dense_ctx_lila.matching import Matching
from dense_ctx_lila.objective import LilaObjective
from dense_ctx_lila.refinement import refined
from dense_ctx_lila.regression import Regression
from dense_ctx_lila.sampling import Sampling
from dense_ctx_lila.synthetic import Scene
from dense_ctx_lila.targets import Targets
from torch import nn
from torch.nn import functional

from dense_ctx.cli import main
from dense_ctx.data.video import write_video
from dense_ctx.errors import ConfigError, InputError
from dense_ctx.testing import tiny_model

SAMPLING = {"size": 32, "frame_side": 48, "cue_side": 48, "crop": (0.6, 0.9), "gap": (1, 2)}
SIZE = (60, 100)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture(seed, height=60, width=100):
    small = torch.rand(1, 3, 6, 10, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(small, size=(height, width), mode="bicubic").clamp(0, 1)[0]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    for seed in range(2):
        wide = (picture(seed, 48, 120) * 255).byte().permute(1, 2, 0).numpy()
        write_video(root / f"{seed}.mp4", [wide[:, 4 * i : 4 * i + 80] for i in range(5)])
    return root


def loss(clips, count=2, **args):
    """The losses of one batch, always of the same pairs and weights."""
    torch.manual_seed(0)
    objective = LilaObjective(**{"sampling": SAMPLING, **args})
    model = tiny_model()
    data = objective.dataset(clips)
    objective.setup(model, data, fresh=True)
    return objective(model, objective.collate([data.sample(i, i) for i in range(count)])), objective, model, data


# ---------------------------------------------------------------------- synthetic motion


def places(flow):
    y, x = torch.meshgrid(*(torch.arange(float(n)) for n in SIZE), indexing="ij")
    end = torch.stack([x + flow[0], y + flow[1]], -1)
    return (end + 0.5) / torch.tensor([SIZE[1], SIZE[0]]) * 2 - 1


def test_the_flow_of_a_scene_leads_to_the_same_colours():
    scene = Scene(picture(0), [picture(1, 48, 48), picture(2)], random.Random(1))
    frames, (flow, order) = scene.frames(SIZE), scene.truth(SIZE)
    assert order[0].unique().tolist() == [0, 1, 2]
    assert flow[0].norm(dim=0).max() > 4
    context, query = consistency(flow[:1], flow[1:])
    for known, one, other, away in ((context, 0, 1, flow[0]), (query, 1, 0, -flow[1])):
        warped = functional.grid_sample(frames[other][None], places(away)[None], align_corners=False)
        off = (warped[0] - frames[one]).abs().mean(0)
        valid = known[0, 0] > 0
        assert valid.float().mean() > 0.6
        assert off[valid].mean() < 0.02 < off[~valid].mean()
    still = Scene(picture(0), [], random.Random(1)).truth(SIZE)
    assert still[1].max() == 0
    dis = create_cue("flow:dis")(frames[:1], frames[1:])
    assert (dis[0] - flow[:1]).norm(dim=1).median() < 0.5


def test_synthetic_pairs_have_their_own_flow_and_order(clips):
    args = {"cues": ["flow:dis", "layers"], "sampling": {**SAMPLING, "synthetic": 0.5}}
    _, _, _, data = loss(clips, **args)
    items = [data.sample(0, seed) for seed in range(12)]
    synthetic = [item["name"].endswith("synthetic") for item in items]
    assert 2 < sum(synthetic) < 10
    for item, known in zip(items, synthetic, strict=True):
        assert item["query/layers/confidence"].unique().tolist() == [float(known)]
        assert known or not item["query/layers"].any()
    assert any(float(item["query/layers"].std()) > 0 for item in items)
    assert data.sample(0, 3)["context"].equal(data.sample(0, 3)["context"])
    results = [loss(clips, sampling={**SAMPLING, "synthetic": share})[0].total.item() for share in (0.0, 1.0)]
    assert results[0] != results[1]


def test_layers_are_of_synthetic_pairs(clips):
    with pytest.raises(ConfigError, match="the cue layers would have no effect"):
        LilaObjective(cues=["layers"])
    with pytest.raises(InputError, match="known of synthetic pairs alone"):
        create_cue("layers")(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))
    for bad in ({"synthetic": 1.5}, {"synthetic": 0.5, "same_frame": True}):
        with pytest.raises(ConfigError, match="synthetic"):
            LilaObjective(sampling=bad)
    with pytest.raises(ConfigError, match="cue_cache would have no effect on synthetic pairs"):
        LilaObjective(cues=["flow:dis"], sampling={"synthetic": 0.5}, cue_cache="folder")


# ---------------------------------------------------------------------- the check of flow


def test_flow_that_does_not_lead_back_is_inconsistent():
    forward = torch.zeros(1, 2, 20, 30)
    forward[:, 0] = 3.0
    query = forward.clone()
    query[..., 8:12, 10:16] = -5.0
    context, after = consistency(forward, query)
    assert context[0, 0, :8, :27].all()
    assert not context[0, 0, :, 27:].any(), "out of the frame"
    assert not context[0, 0, 8:12, 7:13].any()
    assert not after[0, 0, :, :3].any()
    assert not after[0, 0, 8:12, 10:16].any()
    assert after[0, 0, 12:, 3:].all()


@pytest.mark.parametrize("form", [Matching(), Matching(fit="huber", edges="l2norm", weight=0.5)])
def test_errors_count_as_much_as_the_confidence(form):
    pixels = noise(2, 9, 7, 5).requires_grad_()
    weights, bias, shares = noise(2, 5, 4, seed=1), noise(2, 4, seed=2), torch.tensor([0.1, 0.2, 0.3, 0.4])
    targets = Targets.of(noise(2, 4, 9, 7, seed=3))
    arguments = pixels, weights, bias, targets, shares, 0.2, 0.5, "float32"
    everywhere = form.linear(*arguments, torch.ones(2, 9, 7, 2))
    for one, other in zip(everywhere, form.linear(*arguments), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    some = torch.ones(2, 9, 7, 2)
    some[:, :5] = 0
    total, fit, _ = form.linear(*arguments, some)
    assert (fit[:2] == everywhere[1][:2]).all()
    assert (fit[2:] < everywhere[1][2:]).all()
    only = form.linear(pixels, weights, bias, targets, shares * torch.tensor([0, 0, 1, 1]), 0.2, 0.5, "float32", some)
    (gradient,) = torch.autograd.grad(only[0], pixels)
    assert not gradient[:, :5].any()
    assert gradient[:, 6:].any()
    assert total.grad_fn is not None


def test_the_check_leaves_flow_out_of_the_loss(clips):
    results = {}
    for mode in ("in-context", "erm"):
        for check in (False, True):
            args = {"cues": ["features", "flow:dis"], "mode": mode, "sampling": {**SAMPLING, "flow_check": check}}
            results[mode, check] = loss(clips, **args)[0].logs
        assert results[mode, True]["flow:dis"] < results[mode, False]["flow:dis"]
        assert results[mode, True]["features"] == pytest.approx(float(results[mode, False]["features"]), rel=1e-4)
    with pytest.raises(ConfigError, match="flow_check would have no effect without a flow cue"):
        LilaObjective(cues=["features"], sampling={"flow_check": True})


class Network(Cue):
    """Flow with a weight: 2 pixels to the right by both frames, on the right half of the query by none."""

    channels, unit, pair, meaning = 2, "pixels", True, "a flow"

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, context, query):
        flow = torch.zeros(len(context), 2, *context.shape[2:])
        flow[:, 0] = self.weight
        other = flow.clone()
        other[..., flow.shape[-1] // 2 :] = 0
        return flow, other


def test_flow_of_networks_and_of_a_cache_is_checked(clips, tmp_path):
    cues = CueMaps(["features"], FeatureCue(), Sampling(map_size=8, flow_check=False), None)
    cues.names, cues.heavy = ("n", "other"), nn.ModuleDict({"n": Network()})
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    frames = {"frames": [torch.rand(2, 3, 16, 16)] * 2, "context_box": box, "query_box": box}
    cpu = torch.device("cpu")
    assert cues.confidence({"n": 2, "other": 1}, cues.prepare(frames, cpu), cpu, "query") is None
    cues.sampling = Sampling(map_size=16, flow_check=True)
    confidence = cues.confidence({"n": 2, "other": 1}, cues.prepare(frames, cpu), cpu, "query")
    assert confidence.shape == (2, 16, 16, 3)
    assert confidence[:, :, 2:8, :2].all()
    assert not confidence[:, :, 10:, :2].any(), "what the context's flow leads to does not lead back"
    assert confidence[..., 2].all(), "a cue without a check counts everywhere"
    folder = tmp_path / "cues"
    assert (
        main(["cues", str(clips), "--cues", "flow:dis", "--out", str(folder), "--gaps", "1", "2", "--size", "48"]) == 0
    )
    batches = []
    for more in ({}, {"cue_cache": str(folder)}):
        objective = LilaObjective(cues=["flow:dis"], sampling={**SAMPLING, "flow_check": True}, **more)
        data = objective.dataset(clips)
        batch = objective.collate([data.sample(i, i) for i in range(4)])
        batches.append(objective.cues.confidence({"flow:dis": 2}, batch, cpu, "context", "query"))
    assert batches[0].shape == (8, 32, 32, 2)
    assert 0 < batches[0].mean() < 1
    assert (batches[0] - batches[1]).abs().mean() < 0.01  # a cache's flow is float16


# ---------------------------------------------------------------------- refined cues


def test_cues_move_towards_what_both_frames_predict():
    regression = Regression(stride=1)
    first, second = noise(1, 3, 8, 8), noise(1, 3, 8, 8, seed=1)
    linear = [torch.einsum("bdhw,dk->bkhw", x, noise(3, 2, seed=2)) for x in (first, second)]
    noisy = [x + 0.3 * noise(1, 2, 8, 8, seed=3 + i) for i, x in enumerate(linear)]
    kept = noise(1, 1, 8, 8, seed=9)
    cues = tuple(Targets.of(torch.cat([kept, x], 1)) for x in noisy)
    moved = refined(regression, (first, second), cues, 2, 0.8)
    for before, after, true in zip(cues, moved, linear, strict=True):
        assert after.plain[..., :1].equal(before.plain[..., :1])
        off = [(one.plain[..., 1:] - true.movedim(1, -1)).abs().mean() for one in (before, after)]
        assert off[1] < 0.5 * off[0], "noise falls"
    still = refined(regression, (first, second), cues, 2, 0.0)
    assert all(torch.allclose(one.plain, other.plain) for one, other in zip(cues, still, strict=True))
    alien = (cues[0], Targets.of(torch.cat([kept, -5 * linear[1]], 1)))
    apart = refined(regression, (first, second), alien, 2, 0.8)
    assert (apart[0].plain - cues[0].plain).abs().mean() < (moved[0].plain - cues[0].plain).abs().mean() / 2


def test_refinement_changes_the_loss_of_registered_cues(clips):
    plain, some = (loss(clips, refine=share)[0] for share in (0.0, 0.5))
    assert some.logs["flow:dis"] != plain.logs["flow:dis"]
    assert some.logs["features"] == pytest.approx(float(plain.logs["features"]), rel=1e-5)
    for args, message in (
        ({"refine": 2.0}, "a share from 0 to 1"),
        ({"refine": 0.5, "mode": "erm"}, "refine would have no effect with mode=erm"),
        ({"refine": 0.5, "cues": ["features"]}, "refine would have no effect with the cue features alone"),
    ):
        with pytest.raises(ConfigError, match=message):
            LilaObjective(**args)


# ---------------------------------------------------------------------- the anchor


def test_the_anchor_compares_cosines():
    features = noise(4, 6, 30, 30)
    assert float(anchor_loss(features, features)) == 0
    turn = torch.linalg.qr(noise(6, 6, seed=1))[0]
    turned = 3 * torch.einsum("bdhw,de->behw", features, turn)
    assert float(anchor_loss(turned, features)) < 1e-6, "neither a rotation nor a scale changes a cosine"
    assert float(anchor_loss(features + 2, features)) > 0.1
    swapped = features[[1, 0, 3, 2]]
    assert float(anchor_loss(swapped, features)) > 0.1


def test_the_anchor_is_zero_at_the_start_and_holds_it_after(clips):
    both, objective, model, data = loss(clips, anchor=2.0)
    plain = loss(clips)[0]
    assert float(both.logs["anchor"]) == 0
    assert both.total.item() == pytest.approx(plain.total.item())
    with torch.no_grad():
        for value in model.decoder.parameters():
            value.add_(0.3 * noise(*value.shape, seed=5))
    batch = objective.collate([data.sample(0, 0)])
    moved = objective(model, batch)
    fit = moved.total - 2 * moved.logs["anchor"]
    objective.anchor = 0.0
    assert float(moved.logs["anchor"]) > 0.01
    assert float(objective(model, batch).total) == pytest.approx(float(fit), rel=1e-5)
    with pytest.raises(ConfigError, match="a weight from 0 up"):
        LilaObjective(anchor=-1.0)
