"""LILA: frame pairs, crops of image and cues alike, the regression through the context, every ablation switch."""

import numpy as np
import pytest
import torch
from dense_ctx_dpt.dpt import DPT
from dense_ctx_lila.crops import crop_image, crop_map
from dense_ctx_lila.cues.base import Cue
from dense_ctx_lila.losses import edge_loss
from dense_ctx_lila.objective import LilaObjective
from dense_ctx_lila.open_clips import open_clips
from dense_ctx_lila.regression import Regression
from dense_ctx_lila.ridge import ridge_apply, ridge_fit
from dense_ctx_lila.sampling import FramePairs, Sampling
from dense_ctx_lila.slow_copy import SlowCopy
from PIL import Image
from torch.nn import functional

from dense_ctx.data.video import write_video
from dense_ctx.errors import ConfigError, FileError, InputError, NonFiniteError
from dense_ctx.model import DenseModel
from dense_ctx.testing import TinyBackbone, check_objective, tiny_model
from dense_ctx.train import TrainConfig, TrainStep

SAMPLING = {"size": 32, "frame_side": 48, "cue_side": 48, "crop": (0.6, 0.9), "gap": (1, 2)}
ARGS = {"sampling": SAMPLING}


def sampled(**more):
    """Arguments of another sampling."""
    return {"sampling": {**SAMPLING, **more}}


def dpt(**args):
    """A model of a tiny backbone and a DPT decoder."""
    torch.manual_seed(0)
    backbone = TinyBackbone()
    return DenseModel(backbone, DPT(backbone.dims, backbone.strides, dim=6, width=8, **args)).eval()


def scene(shift, height=48, width=80):
    """A smooth random picture, moved right by `shift` pixels."""
    picture = torch.rand(1, 3, 8, 20, generator=torch.Generator().manual_seed(0))
    large = functional.interpolate(picture, size=(height, width + 40), mode="bicubic").clamp(0, 1)[0]
    return (large[:, :, 20 - shift : 20 - shift + width] * 255).byte().permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    write_video(root / "film.mp4", [scene(i) for i in range(6)])
    (root / "frames").mkdir()
    for i in range(5):
        Image.fromarray(scene(2 * i, 60, 44)).save(root / "frames" / f"{i:05d}.png")
    return root


class Picture(Cue):
    """The frame itself as a cue: what is cut out of it must be what is cut out of the image."""

    channels, unit, pair, meaning = 3, "intensity", False, "the frame"

    def forward(self, context, query):
        return context, query


class Still(Cue):
    """A constant flow in pixels."""

    channels, unit, pair, meaning = 2, "pixels", True, "a flow"

    def forward(self, context, query):
        flow = torch.linspace(-3, 5, context.shape[-1]).expand(len(context), 2, context.shape[-2], -1)
        return flow, flow


def test_contract(clips):
    assert "frozen" in check_objective("lila", clips, args=ARGS)


@pytest.mark.parametrize("args", [{}, {"mode": "erm"}, {"context": "ema"}])
def test_the_loss_of_a_batch_is_the_mean_of_its_parts(clips, args):
    objective, model = LilaObjective(**ARGS, **args), tiny_model()
    data = objective.dataset(clips)
    step = TrainStep(model, objective, data, fresh=True).train()
    samples = [data.sample(index, index) for index in range(4)]
    gradients = []
    for parts in ([samples], [samples[:2], samples[2:]], [[sample] for sample in samples]):
        torch.manual_seed(0)
        losses = [step(objective.collate(part)).total / len(parts) for part in parts]
        step.zero_grad()
        sum(losses).backward()
        grads = torch.cat([p.grad.flatten() for p in step.parameters() if p.grad is not None])
        gradients.append((float(sum(losses)), grads))
    for loss, gradient in gradients[1:]:
        assert loss == pytest.approx(gradients[0][0], abs=1e-6)
        assert float((gradient - gradients[0][1]).abs().max()) < 1e-6


FLOWFEAT = {"cues": ["flow:dis"], "context": "ema", "ema": {"every": 5, "ramp": True}, "balance": "channels",
            "loss": {"weight": 0.2, "edges": "l1norm"},
            "regression": {"bias": "penalized", "relative": False, "stride": 1}}  # fmt: skip


@pytest.mark.parametrize(
    "args",
    [
        {"cues": ["features"]},
        {"cues": ["flow:dis"]},
        {"mode": "erm"},
        {"features": {"pamr": False}},
        sampled(crop=(1, 1)),
        sampled(same_frame=True),
        {"gamma": 0.0},
        {"context": "detached"},
        {"context": "ema", "ema": {"momentum": 0.9, "every": 5, "ramp": True}},
        {"regression": {"bias": "none"}},
        {"regression": {"relative": False}},
        {"regression": {"bias": "penalized"}},
        {"regression": {"mean": False}},
        {"balance": "channels"},
        FLOWFEAT,
        {"features": {"layers": [0, -1]}},
        {"features": {"layers": [0, -1], "project": 3}},
        sampled(map_size=16),
        {
            "anchor": 1.0,
            "refine": 0.5,
            "cues": ["features", "flow:dis", "layers"],
            **sampled(synthetic=0.5, flow_check=True),
        },
        {**sampled(map_size=16), "features": {"pamr": False}, "context": "ema"},
    ],
)
def test_every_switch_trains(clips, args):
    assert "step" in check_objective("lila", clips, args={**ARGS, **args}, steps=1)


def test_the_loss_is_the_equations(clips):
    torch.manual_seed(0)
    objective = LilaObjective(
        **ARGS, cues=["flow:dis"], sigma=0.2, gamma=0.5, regression={"stride": 5, "relative": False}
    )
    model = tiny_model()
    data = objective.dataset(clips)
    objective.setup(model, data, fresh=True)
    batch = objective.collate([data.sample(0, 3), data.sample(4, 4)])
    loss = objective(model, batch)
    total = 0.0
    for i in range(2):
        x0, xd = (model(batch[role][i : i + 1]).pixels for role in ("context", "query"))
        g0, gd = (batch[f"{role}/flow:dis"][i : i + 1] for role in ("context", "query"))
        rows = x0[..., 2::5, 2::5].flatten(2).transpose(1, 2)
        targets = g0[..., 2::5, 2::5].flatten(2).transpose(1, 2)
        weights = ridge_fit(rows, targets, 0.1, bias="free")
        predicted = ridge_apply(xd.flatten(2).transpose(1, 2), weights).transpose(1, 2).reshape(gd.shape)
        total = total + (predicted - gd).abs().mean() + 0.5 * edge_loss(predicted, gd, 0.2)
    assert loss.total.item() == pytest.approx(total.item() / 2, rel=1e-4)
    assert set(loss.logs) == {"flow:dis", "edges"}


def test_the_loss_is_flowfeats(clips):
    """0.1 times the L1 summed over flow's channels and the edges; the bias penalised, every pixel."""
    torch.manual_seed(0)
    objective = LilaObjective(**{**ARGS, **FLOWFEAT})
    model = tiny_model()
    data = objective.dataset(clips)
    objective.setup(model, data, fresh=True)
    batch = objective.collate([data.sample(0, 3), data.sample(4, 4)])
    x0, xd = (model(batch[role]).pixels for role in ("context", "query"))
    g0, gd = (batch[f"{role}/flow:dis"] for role in ("context", "query"))
    rows, pixels = (functional.pad(x.flatten(2).mT, (0, 1), value=1.0) for x in (x0, xd))
    targets = g0.flatten(2).mT
    gram = rows.mT @ rows / rows.shape[1] + 0.1 * torch.eye(rows.shape[2])
    solved = torch.linalg.solve(gram, rows.mT @ targets / rows.shape[1])
    predicted = (pixels @ solved).mT.reshape(gd.shape)
    total = 0.1 * (predicted - gd).abs().sum(1).mean()
    for axis in (-1, -2):
        change, wanted = predicted.diff(dim=axis).abs(), gd.diff(dim=axis).abs()
        edge = 1 - (-wanted / 0.1).exp()
        total = total + (edge / edge.sum((-1, -2), keepdim=True) * (change - wanted).abs()).sum((-1, -2)).mean()
    assert objective(model, batch).total.item() == pytest.approx(total.item(), rel=1e-3)


def test_a_constant_or_a_scale_changes_nothing(clips):
    """Else a decoder could lower the loss by them; equal to rounding with the penalty in the features' own units."""
    torch.manual_seed(0)
    model = tiny_model()
    losses = []
    for factor, offset in ((1.0, 0.0), (7.0, 3.0)):
        objective = LilaObjective(**ARGS, cues=["flow:dis"])
        data = objective.dataset(clips)
        objective.setup(model, data, fresh=True)
        batch = objective.collate([data.sample(0, 3)])
        decode = model.decode
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model, "decode", lambda *args: decode(*args) * factor + offset)  # noqa: B023
            losses.append(objective(model, batch).total.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_fresh_decoder_starts_from_the_data(clips):
    objective, model = LilaObjective(**ARGS, start=4), dpt(shortcut=True)
    before = model.decoder.shortcut[0].weight.clone()
    TrainStep(model, objective, objective.dataset(clips), fresh=False)
    assert torch.equal(before, model.decoder.shortcut[0].weight), "a run that resumes has its weights"
    TrainStep(model, objective, objective.dataset(clips))
    assert not torch.equal(before, model.decoder.shortcut[0].weight)


def test_a_decoder_that_cannot_start_from_data_is_refused_and_no_frame_read(clips):
    class Unread(list):
        def __getitem__(self, index):
            raise AssertionError("a pair was read")

    for model, name in ((dpt(), "DPT"), (tiny_model(), "TinyDecoder")):
        with pytest.raises(ConfigError, match=f"start=4: the decoder {name} cannot be initialised"):
            LilaObjective(**ARGS, start=4).setup(model, Unread(range(9)), fresh=True)


def test_start_is_refused_for_a_model_that_was_opened(clips):
    model = dpt(shortcut=True)
    model.decoder.fresh = False
    with pytest.raises(ConfigError, match="published weights would be overwritten"):
        TrainStep(model, LilaObjective(**ARGS, start=4), ())


@pytest.mark.parametrize("norm", [True, False])
def test_in_the_end_features_are_centred_and_nothing_else_is_changed(clips, norm):
    objective, model = LilaObjective(**ARGS, centre=6), dpt(norm=norm)
    model.decoder.shift(torch.full((6,), 3.0))
    data = objective.dataset(clips)
    objective.setup(model, data, fresh=True)
    crops = torch.stack([data[i]["context"] for i in range(len(data))])
    with torch.no_grad():
        before = model(crops, size=(8, 8)).pixels
        objective.finish(model)
        after = model(crops, size=(8, 8)).pixels
    shift = (after - before).mean((0, 2, 3))
    assert torch.allclose(after - before, shift[None, :, None, None].expand_as(after), atol=1e-5)
    assert before.mean((0, 2, 3)).norm() > 5
    assert after.mean((0, 2, 3)).norm() < 0.2 * before.mean((0, 2, 3)).norm()


@pytest.mark.parametrize("fresh", [True, False])
def test_the_mean_of_the_features_stays_where_nobody_asks(clips, fresh):
    objective, model = LilaObjective(**ARGS, centre=0), dpt()
    model.decoder.fresh = fresh
    objective.setup(model, objective.dataset(clips), fresh=fresh)
    before = model.decoder.norm.bias.clone()
    objective.finish(model)
    assert torch.equal(before, model.decoder.norm.bias)


def moved(backbone, decoder):
    """As by a training: other features, of another mean."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in [*backbone, *decoder.parameters()]:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    decoder.shift(torch.full((decoder.dim,), 3.0))


@pytest.mark.parametrize("adapters", [False, True])
def test_a_decoder_that_was_trained_before_keeps_the_mean_of_its_features(clips, adapters):
    """Of the model as it was opened, its backbone's adapters too."""
    objective, model = LilaObjective(**ARGS, cues=["flow:dis"], centre=64), dpt()
    model.decoder.shift(torch.tensor([1.0, -2, 3, -4, 5, -6]))
    model.decoder.fresh = False
    weights = [next(model.backbone.parameters())] if adapters else []
    model.backbone.adapters = lambda: [name for name, p in model.backbone.named_parameters() if p in set(weights)]
    data = objective.dataset(clips)
    crops = torch.stack([data[i]["context"] for i in range(len(data))])

    def mean():
        with torch.no_grad():
            return model(crops, size=(8, 8)).pixels.mean((0, 2, 3))

    opened = mean()
    objective.setup(model, data, fresh=False)
    moved(weights, model.decoder)
    trained = mean()
    objective.finish(model)
    assert (trained - opened).norm() > 5
    torch.testing.assert_close(mean(), opened, atol=1e-4, rtol=0)  # 64 crops are all that there are


def test_a_decoder_that_cannot_be_centred_is_named(clips):
    objective, model = LilaObjective(**ARGS, centre=6), tiny_model()
    objective.setup(model, objective.dataset(clips), fresh=True)
    with pytest.warns(UserWarning, match=r"^centre=6: the decoder TinyDecoder cannot be shifted, so [^\n]*$"):
        objective.finish(model)


def gradient(context, clips):
    torch.manual_seed(0)
    own = {"ema": {"momentum": 0.0}} if context == "ema" else {}
    objective = LilaObjective(**ARGS, cues=["features"], context=context, **own)
    model = tiny_model()
    data = objective.dataset(clips)
    objective.setup(model, data, fresh=True)
    objective(model, objective.collate([data.sample(1, 5)])).total.backward()
    return torch.cat([p.grad.flatten() for p in model.decoder.parameters() if p.grad is not None])


def test_gradients_flow_through_the_solve_only_if_shared(clips):
    shared, detached, slow = (gradient(mode, clips) for mode in ("shared", "detached", "ema"))
    assert torch.allclose(detached, slow, atol=1e-6)  # a slow copy that has not moved is the decoder itself
    assert not torch.allclose(shared, detached, rtol=0.05, atol=1e-5)


def test_the_slow_copy_follows(clips):
    objective, model = LilaObjective(**ARGS, context="ema", ema={"momentum": 0.75}), tiny_model()
    objective.setup(model, (), fresh=True)
    first = [p.clone() for p in model.decoder.parameters()]
    with torch.no_grad():
        for p in model.decoder.parameters():
            p.add_(1.0)
    objective.after_step(model, 1)
    for slow, old in zip(objective.slow.parameters(), first, strict=True):
        assert torch.allclose(slow, old + 0.25)


def test_the_slow_copy_moves_when_flowfeats_does():
    """Its cadence, call by call: a copy first, then every fifth call, by 1 - calls^(-2/3) until that reaches 0.999."""
    copy = SlowCopy(momentum=0.999, every=5, ramp=True)
    slow, fast = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    expected = None
    for step in range(1, 40):
        with torch.no_grad():
            fast.weight.fill_(float(step))
        copy.move(slow, fast, step)
        if step == 1:
            expected = 1.0
        elif step in (6, 11, 16, 21, 26, 31, 36):
            decay = 1 - 1 / (step - 1) ** (2 / 3)
            expected = decay * expected + (1 - decay) * step
        assert slow.weight.item() == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        slow.weight.fill_(0.0)
        fast.weight.fill_(1.0)
    copy.move(slow, fast, 100_001)
    assert slow.weight.item() == pytest.approx(0.001, rel=1e-3)


def test_crops_of_image_and_cue_are_one(clips):
    sampling = Sampling(gap=(1, 2), crop=(0.5, 0.9), size=24, frame_side=48, cue_side=48)
    data = FramePairs(open_clips(clips), sampling, {"picture": Picture()})
    for index in range(0, len(data), 2):
        item = data.sample(index, 100 + index)
        for role in ("context", "query"):
            image, cue = item[role].flatten(1), item[f"{role}/picture"].flatten(1)
            for channel in range(3):  # the cue is standardised: equal up to a factor and an offset
                together = torch.corrcoef(torch.stack([image[channel], cue[channel]]))[0, 1]
                assert together > 0.99


def test_cutting_a_map_keeps_its_values_and_places():
    columns = (torch.arange(80) + 0.5).expand(1, 1, 48, 80)
    box = torch.tensor([[12 / 48, 20 / 80, 24 / 48, 24 / 80]])
    cut = crop_map(columns, box, 24)[0, 0]
    assert torch.allclose(cut, (20 + torch.arange(24) + 0.5).expand(24, 24), atol=1e-4)
    image = columns.expand(1, 3, -1, -1)[0] / 80
    assert torch.allclose(crop_image(image, tuple(box[0].tolist()), 24)[0] * 80, cut, atol=1e-3)


def test_flow_of_a_moving_scene_is_the_same_in_every_crop(tmp_path):
    """Two pixels a frame to the right: full-frame units, whatever is cut out and however large it is shown."""
    (tmp_path / "moving").mkdir()
    for i in range(4):
        Image.fromarray(scene(2 * i)).save(tmp_path / "moving" / f"{i:05d}.png")
    from dense_ctx_lila.cues.base import create_cue

    cue = create_cue("flow:dis")
    frames = [torch.from_numpy(scene(shift)).permute(2, 0, 1)[None].float() / 255 for shift in (0, 2)]
    forward, backward = cue(*frames)
    for box in ([0.25, 0.3, 0.5, 0.3], [0.2, 0.2, 0.6, 0.36]):
        for maps in (forward, backward):  # the query gets minus the backward flow: to the right as well
            cut = crop_map(maps, torch.tensor([box]), 40)[0]
            assert (cut[0] - 2).abs().median() < 0.2
            assert cut[1].abs().median() < 0.2


def test_the_same_seed_gives_the_same_pair(clips):
    objective = LilaObjective(**ARGS)
    data = objective.dataset(clips)
    a, b, c = data.sample(2, 7), data.sample(2, 7), data.sample(2, 8)
    assert a["name"] == b["name"]
    assert all(torch.equal(a[key], b[key]) for key in a if key != "name")
    assert not torch.equal(a["context"], c["context"])


def test_the_query_comes_before_and_after(clips):
    data = FramePairs(open_clips(clips), Sampling(gap=(2, 2), crop=(1, 1), size=16, frame_side=48, cue_side=48))
    first = data.sample(0, 0)["context"]
    orders = {torch.equal(data.sample(0, seed)["context"], first) for seed in range(12)}
    assert orders == {True, False}


def test_same_frame_takes_the_context_for_the_query(clips):
    sampling = Sampling(gap=(2, 2), crop=(1, 1), size=16, frame_side=48, cue_side=48, same_frame=True)
    item = FramePairs(open_clips(clips), sampling, {"flow": Still()}).sample(0, 1)
    assert torch.equal(item["context"], item["query"])
    assert torch.equal(item["context/flow"], item["query/flow"])


def test_memory_of_frames_is_bounded(clips):
    sampling = Sampling(gap=(1, 2), size=16, frame_side=48, cue_side=48, memory=48 * 80 * 3 * 3)
    data = FramePairs(open_clips(clips), sampling)
    for index in range(len(data)):
        data.sample(index, index)
    assert data._used <= sampling.memory
    assert data._used == sum(frame.numel() for frame in data._frames.values())


def test_broken_clips_are_left_out_and_counted(clips, tmp_path):
    (tmp_path / "good.mp4").write_bytes((clips / "film.mp4").read_bytes())
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.warns(UserWarning, match="bad is left out"):
        data = LilaObjective(**ARGS).dataset(tmp_path)
    assert data.broken == ["bad"]
    assert len(data) == 5
    (tmp_path / "good.mp4").unlink()
    with pytest.warns(UserWarning, match="bad"), pytest.raises(FileError, match="None of 1 clips can be read: bad"):
        LilaObjective(**ARGS).dataset(tmp_path)


def test_a_frame_damaged_further_on_is_replaced(clips, tmp_path):
    (tmp_path / "a").mkdir()
    for i in range(5):
        Image.fromarray(scene(i)).save(tmp_path / "a" / f"{i:05d}.png")
    data = FramePairs(open_clips(tmp_path), Sampling(gap=(1, 1), size=16, frame_side=48, cue_side=48))
    (tmp_path / "a" / "00003.png").write_bytes(b"cut short")
    with pytest.warns(UserWarning, match="a at frame 3 is left out"):
        item = data.sample(3, 0)
    assert item["name"].startswith("a@")
    assert torch.isfinite(item["context"]).all()


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ({"cues": []}, ConfigError, "at least one"),
        ({"mode": "distil"}, ConfigError, "in-context, erm"),
        ({"context": "frozen"}, ConfigError, "shared, detached, ema"),
        ({"ema": {"every": 5}}, ConfigError, "ema would have no effect without context=ema: leave it out"),
        (
            {"ema": {"momentum": 1.0}, "context": "ema"},
            ConfigError,
            "momentum=1.0, every=1: expected from 0 to below 1",
        ),
        ({"ema": {"every": 0}, "context": "ema"}, ConfigError, "every=0: expected from 0 to below 1, and from 1 up"),
        ({"ema": 0.9, "context": "ema"}, ConfigError, "ema"),
        ({"mode": "erm", "context": "ema"}, ConfigError, "context would have no effect with mode=erm"),
        ({"mode": "erm", "regression": {"penalty": 0.5}}, ConfigError, "regression would have no effect with mode=erm"),
        ({"gamma": 0, "loss": {"edges": "l1norm"}}, ConfigError, r"loss\.edges would have no effect with gamma=0"),
        ({"loss": {"beta": 1}}, ConfigError, r"loss\.beta would have no effect with loss\.fit=l1"),
        ({"gamma": 0, "sigma": 0.2}, ConfigError, "sigma would have no effect with gamma=0"),
        ({"cues": ["flow:dis"], "features": {"pamr": False}}, ConfigError, "features would have no effect without the"),
        ({"regression": {"penalty": 0}}, ConfigError, "penalty=0"),
        (sampled(gap=(3, 1)), ConfigError, "the least first"),
        (sampled(crop=(0.5, 1.5)), ConfigError, "short side"),
        (sampled(size=4), ConfigError, "at least 8 pixels"),
        (sampled(gap=3), ConfigError, r"objective: sampling\.gap is 3; expected"),
        (sampled(gap=(1, 2.5)), ConfigError, r"objective: sampling\.gap\[1\] is 2\.5; expected"),
        (sampled(gaps=(1, 2)), ConfigError, r"objective: sampling.+gaps"),
        ({"features": {"pamr": 1}}, ConfigError, r"objective: features\.pamr is 1; expected"),
        ({"features": {"layers": []}}, ConfigError, "at least one map"),
        ({"regression": {"bias": "half"}}, ConfigError, r"objective: regression\.bias is 'half'; expected"),
        ({"regression": 5}, ConfigError, "objective: regression.* is 5; expected a mapping"),
        ({"cues": ["features", "flow:dsi"]}, Exception, "flow:dis"),
    ],
)
def test_bad_configuration(args, error, message):
    with pytest.raises(error, match=message):
        LilaObjective(**{**ARGS, **args})


def test_bad_data(tmp_path):
    objective = LilaObjective(**ARGS)
    with pytest.raises(InputError, match="LILA trains on clips"):
        objective.dataset(3)
    with pytest.raises(InputError, match="unknown keys rot"):
        objective.dataset({"root": tmp_path, "rot": 1})
    with pytest.raises(FileError):
        objective.dataset(tmp_path / "nowhere")


def test_a_list_of_folders_files_and_data_sets_is_one(clips, tmp_path):
    (tmp_path / "film.mp4").write_bytes((clips / "film.mp4").read_bytes())
    videos = open_clips([clips, tmp_path / "film.mp4"])
    names = [clip.name for clip in videos.clips]
    assert names == [f"{clips.name}/film", f"{clips.name}/frames", f"{tmp_path.name}/film"]
    data = LilaObjective(**ARGS).dataset([str(clips), str(tmp_path)])
    assert len(data) == 5 + 4 + 5
    assert data.sample(10, 0)["name"].startswith(f"{tmp_path.name}/film@")
    assert torch.equal(data.sample(9, 3)["context"], LilaObjective(**ARGS).dataset(tmp_path).sample(0, 3)["context"])
    assert open_clips(tmp_path / "film.mp4").clips[0].name == "film"
    with pytest.raises(InputError, match=f"Two clips are called {clips.name}/film, {clips.name}/frames"):
        open_clips([clips, {"root": str(clips)}])
    with pytest.raises(InputError, match="the list of folders is empty"):
        open_clips([])


def test_a_clip_of_one_frame_says_so(tmp_path):
    (tmp_path / "one").mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "one" / "0.png")
    with pytest.warns(UserWarning, match=r"1 frame\(s\); a gap of 1 needs more"), pytest.raises(FileError):
        LilaObjective(**ARGS).dataset(tmp_path)


def test_cues_from_a_cache_are_those_computed(clips, tmp_path):
    from dense_ctx.cli import main

    assert (
        main(["cues", str(clips), "--cues", "flow:dis", "--gaps", "1", "2", "--size", "48", "--out", str(tmp_path)])
        == 0
    )
    args = {**ARGS, "cues": ["flow:dis"]}
    live, cached = (LilaObjective(**args, **more).dataset(clips) for more in ({}, {"cue_cache": str(tmp_path)}))
    for index in range(len(live)):
        a, b = live.sample(index, index), cached.sample(index, index)
        assert torch.equal(a["context"], b["context"])
        for key in ("context/flow:dis", "query/flow:dis"):
            assert (a[key] - b[key]).abs().max() < 0.05  # float16, in standard deviations
    objective = LilaObjective(**args, cue_cache=str(tmp_path))
    assert not objective.cues.light
    assert not objective.cues.heavy
    assert "step" in check_objective(objective, clips, steps=1)
    with pytest.raises(ConfigError, match="gaps"):
        LilaObjective(**{**args, **sampled(gap=(1, 4))}, cue_cache=str(tmp_path))
    write_video(clips / "new.mp4", [scene(i) for i in range(4)])
    try:
        with pytest.raises(FileError, match="lacks 1 clip"):
            objective.dataset(clips)
    finally:
        (clips / "new.mp4").unlink()


@pytest.mark.parametrize("name", ["lila-lite0", "lila-on-dip"])
def test_a_shipped_configuration(name):
    config = TrainConfig.load(name, ["objective.args.cues=[features]"])
    LilaObjective(**config.objective.args)


def test_the_slow_copy_has_the_statistics_of_batch_norm():
    slow, fast = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    fast(torch.randn(50, 2) + 7)
    SlowCopy().move(slow, fast, 1)
    assert torch.equal(slow.running_mean, fast.running_mean)


@pytest.mark.parametrize(
    ("features", "relative", "message"),
    [
        (1e20 * torch.randn(1, 8, 8, 8), False, r"reach \de\+20 and vary"),
        (1e25 * torch.randn(1, 8, 8, 8), True, "NaN or infinity in features"),  # their squares are infinite
        (torch.ones(1, 8, 8, 8), True, r"reach 1e\+00 and vary over its pixels by 0e\+00"),
        (torch.full((1, 8, 8, 8), torch.nan), True, "NaN or infinity in features"),
    ],
)
def test_features_of_a_training_that_has_diverged_are_named_as_such(features, relative, message):
    with pytest.raises(NonFiniteError, match=message):
        Regression(stride=1, relative=relative).fit(features, torch.randn(1, 8, 8, 2))


def test_a_stride_beyond_the_maps_is_refused():
    with pytest.raises(ConfigError, match=r"regression.stride=65 leaves no pixel of maps of 32 x 32"):
        LilaObjective(**ARGS, regression={"stride": 65})
    LilaObjective(**ARGS, regression={"stride": 63})
