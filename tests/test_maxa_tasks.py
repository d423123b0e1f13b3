import copy
import json

import pytest
import tiny_datasets
import torch
from dense_ctx_bench.testing import check_scored_objective
from dense_ctx_maxa.objective import MaxaObjective
from dense_ctx_maxa.tasks import create_task, make_target
from maxa_scenes import KINDS, OUTPUTS, Boxes

from dense_ctx import DenseModel, create_decoder, registry
from dense_ctx.data.features import cache_features
from dense_ctx.errors import ConfigError, InputError, UnknownNameError
from dense_ctx.interfaces import ScoredObjective
from dense_ctx.testing import check_objective
from dense_ctx.testing.tiny import TinyBackbone
from dense_ctx.train import TrainConfig, TrainStep, train
from dense_ctx.train.log import read_log

SIZE, IMAGE = (32, 48), (40, 56)
TASKS = registry().names("task")


def model(task, head="maxa", dim=None, **args):
    torch.manual_seed(0)
    backbone = TinyBackbone((8, 16))
    if head == "maxa":
        args = {"size": SIZE, "grid": (10, 14), "layers": [0, 1], **args}
    return DenseModel(backbone, create_decoder(head, backbone, dim=OUTPUTS[task] if dim is None else dim, **args))


def objective(task, **args):
    return MaxaObjective(task, **{"size": SIZE, "image_size": IMAGE, **args})


def trained(task, steps, head="maxa", images=None, made=None, lr=None, **args):
    """The model, the objective and the losses, after steps of Adam on all images at once."""
    made = made or objective(task, **args)
    images = images or Boxes(KINDS[task])
    data = made.dataset(images)
    whole = model(task, head)
    step = TrainStep(whole, made, data)
    optimizer = torch.optim.AdamW(step.groups, **{**made.optimizer, **({} if lr is None else {"lr": lr})})
    step.train()
    losses = []
    for number in range(steps):
        torch.manual_seed(number)
        loss = step(made.collate([data[index] for index in range(len(data))])).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return whole.eval(), made, losses


@pytest.mark.parametrize("task", TASKS)
def test_contract(task):
    args = {"task": task, "size": list(SIZE), "image_size": list(IMAGE)}
    done = check_objective("maxa", Boxes(KINDS[task]), args=args, model=model(task))
    assert "state_dict" in done


@pytest.mark.parametrize("task", TASKS)
def test_contract_of_what_a_benchmark_needs(task):
    done = check_scored_objective(f"maxa-{task}", Boxes(KINDS[task]), Boxes(KINDS[task], count=3, first=6))
    assert "features" in done


@pytest.mark.parametrize("task", TASKS)
def test_contract_of_a_task(task):
    """What a task declares is what its target, loss and scores are."""
    created, images = create_task(task), Boxes(KINDS[task])
    sample = images[0]
    target = make_target(created, sample.target, (20, 28), images.classes, sample.name)
    channels = len(images.classes) if created.channels is None else created.channels
    assert images.kind == created.kind
    assert target.dtype == (torch.float32 if created.values else torch.int64)
    assert target.shape == ((channels, 20, 28) if created.values else (20, 28))
    assert created.mirrored(created.mirrored(target)).equal(target)
    prediction = torch.randn(1, channels, 20, 28, requires_grad=True)
    unknown = torch.full_like(target, float("nan") if created.values else -1)
    assert not bool(created.known(unknown).any())
    assert float(created.loss(prediction, unknown[None]).detach()) == 0
    assert float(created.loss(prediction, target[None].clamp(max=channels - 1)).detach()) > 0
    whole, *parts = (created.scores(images.classes) for _ in range(3))
    assert whole.higher_is_better[created.metric] is not created.lower_is_better
    for index in range(2):
        target = make_target(created, images[index].target, (20, 28), images.classes, "x")
        prediction = torch.randn(channels, 20, 28, generator=torch.Generator().manual_seed(index))
        for scores in (whole, parts[index]):
            scores.update(prediction, target)
    parts[0].merge(json.loads(json.dumps(parts[1].state())))
    assert parts[0].compute().values == pytest.approx(whole.compute().values, nan_ok=True)
    assert parts[0].compute().counts["images"] == 2
    assert set(whole.compute().values) == set(whole.higher_is_better)


def test_every_task_is_registered_and_has_an_objective():
    assert sorted(KINDS) == TASKS
    objectives = [name for name in registry().names("objective") if name.startswith("maxa-")]
    assert objectives == [f"maxa-{task}" for task in TASKS]
    assert isinstance(registry().create("objective", "maxa", task="depth"), ScoredObjective)


def test_a_task_with_arguments(tmp_path):
    part = objective({"name": "instances", "args": {"least": 3}})
    assert part.task.least == 3
    with pytest.raises(InputError, match="none of 6 images has what ClusterScores needs"):
        part.score(model("instances").eval(), Boxes())
    objective("instances", targets=str(tmp_path)).dataset(Boxes())
    with pytest.raises(ConfigError, match=r"args\.least: nothing there, 3 now"):
        objective({"name": "instances", "args": {"least": 3}}, targets=str(tmp_path)).dataset(Boxes())


@pytest.mark.parametrize("task", TASKS)
def test_it_learns(task):
    images = Boxes(KINDS[task])
    before = objective(task).score(model(task).eval(), images)
    whole, made, losses = trained(task, 60, images=images, lr=1e-2)
    after = made.score(whole, images)
    assert losses[-1] < 0.7 * losses[0]
    better, worse = (after, before) if not made.lower_is_better else (before, after)
    assert better[made.metric] > worse[made.metric]
    assert after["images"] == 6


def test_the_paper_s_learning_rates():
    for task in TASKS:
        rate = 2e-3 if task in ("boundaries", "depth") else 1e-3
        assert objective(task).optimizer == {"lr": rate, "weight_decay": 0.0}


@pytest.mark.parametrize(
    ("given", "lr", "weight_decay"),
    [({}, 2e-3, 0.0), ({"lr": 0.5}, 0.5, 0.0), ({"weight_decay": 0.3}, 2e-3, 0.3), ({"lr": 1e-3}, 1e-3, 0.0)],
)
def test_a_configuration_s_optimizer_counts(tmp_path, given, lr, weight_decay):
    """It was ignored without a word."""
    tiny_datasets.rgbd(tmp_path / "rgbd")
    data = {"name": "rgbd-folder", "root": str(tmp_path / "rgbd"), "split": "train"}
    values = {
        "out": str(tmp_path / "run"), "steps": 1, "batch_size": 1, "optimizer": given, "data": data,
        "model": "rgb-xy+linear(dim=1)",
        "objective": {"name": "maxa-depth", "args": {"size": [16, 24], "image_size": [16, 24]}},
    }  # fmt: skip
    train(TrainConfig.from_dict(values))
    (row,) = [row for row in read_log(tmp_path / "run" / "log.jsonl") if "lr" in row]
    settings = TrainConfig.load(tmp_path / "run" / "config.yaml")
    assert (row["lr"], settings.optimizer.lr, settings.optimizer.weight_decay) == (lr, lr, weight_decay)
    train(TrainConfig.from_dict({**values, "steps": 2}))  # what is left open goes on as it was
    with pytest.raises(ConfigError, match=r"optimizer.lr: .* there, 0.07 now"):
        train(TrainConfig.from_dict({**values, "optimizer": {"lr": 0.07}, "steps": 3}))


def test_instances_are_classes_over_the_whole_data_set():
    part = objective("instances")
    data = part.dataset(Boxes(empty=(1,), count=4))
    assert data.offsets == [0, 2, 2, 4, 6]
    TrainStep(model("instances"), part, data)
    assert part.classifier.out_features == 6
    assert sorted(torch.unique(data[2]["target"]).tolist()) == [-1, 2, 3]
    assert torch.unique(data[1]["target"]).tolist() == [-1]


def test_at_most_so_many_pixels_of_an_image_enter_the_loss():
    part = objective("instances", pixels=5)
    data = part.dataset(Boxes())
    step = TrainStep(model("instances"), part, data)
    shapes = []
    part.classifier.register_forward_pre_hook(lambda module, args: shapes.append(args[0].shape))
    step(part.collate([data[0], data[1]]))
    assert shapes == [(2, 5, 8)]


@pytest.mark.parametrize("head", ["maxa", "cnn", "linear"])
def test_training_from_the_cache_is_training_from_images(tmp_path, head):
    """Up to the rounding of cached maps to float16."""
    _, _, images = trained("depth", 5, head)
    _, made, cached = trained("depth", 5, head, cache=str(tmp_path / "features"))
    assert torch.allclose(torch.tensor(cached), torch.tensor(images), rtol=5e-3)
    assert "image" not in made._data[0]
    again = objective("depth", cache=str(tmp_path / "features"))
    data = again.dataset(Boxes("depth"))
    other = model("depth", head)
    with torch.no_grad():
        other.backbone.deep.weight.add_(1.0)
    with pytest.raises(ConfigError, match=r"another feature cache.*weights"):
        TrainStep(other, again, data)


def test_scores_from_a_cache(tmp_path):
    whole, made, _ = trained("depth", 5)
    plain = made.score(whole, Boxes("depth"))
    cached = made.score(whole, Boxes("depth"), features=cache_features(whole, Boxes("depth"), tmp_path / "val", IMAGE))
    assert plain["rmse"] == pytest.approx(cached["rmse"], rel=5e-3)


@pytest.mark.parametrize("task", TASKS)
def test_targets_are_kept_and_read(tmp_path, task):
    folder = str(tmp_path / "targets")
    fresh = objective(task).dataset(Boxes(KINDS[task]))
    for _ in range(2):
        dataset = objective(task, targets=folder).dataset(Boxes(KINDS[task]))
        for index in range(len(fresh)):
            one, two = fresh[index]["target"], dataset[index]["target"]
            assert one.dtype == two.dtype
            assert torch.allclose(one, two, atol=1e-3)
    assert len(list((tmp_path / "targets").rglob("*.safetensors"))) == 6
    with pytest.raises(ConfigError, match=r"size: \[32, 48\] there"):
        objective(task, targets=folder, size=(32, 40)).dataset(Boxes(KINDS[task]))
    first, second, *_ = sorted((tmp_path / "targets").rglob("*.safetensors"))
    first.write_bytes(b"damaged")
    whole = second.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    second.write_bytes(whole[:header] + bytes(byte ^ 0x40 for byte in whole[header:]))  # other values, a whole file
    again = objective(task, targets=folder).dataset(Boxes(KINDS[task]))
    assert all(torch.allclose(fresh[i]["target"], again[i]["target"], atol=1e-3) for i in range(6))


def test_a_mirrored_sample_is_the_mirror_image():
    for task in TASKS:
        data = objective(task, flip=True).dataset(Boxes(KINDS[task]))
        plain = data.sample(2, 0)
        other = next(
            s for s in (data.sample(2, seed) for seed in range(20)) if not torch.equal(s["image"], plain["image"])
        )
        assert torch.equal(other["image"].flip(-1), plain["image"])
        sign = torch.tensor([-1.0, 1.0, 1.0])[:, None, None] if task == "normals" else 1
        assert torch.equal(other["target"].flip(-1) * sign, plain["target"])


def test_an_image_with_nothing_known_gives_a_loss_of_zero_and_no_nan():
    """One such image in a data set is no reason to stop; a data set of them is."""
    for task in TASKS:
        part = objective(task)
        data = part.dataset(Boxes(KINDS[task]))
        sample = copy.deepcopy(data[0])
        sample["target"] = torch.full_like(
            sample["target"], float("nan") if sample["target"].is_floating_point() else -1
        )
        losses = (step := TrainStep(model(task), part, data))(part.collate([sample, sample]))
        assert float(losses.total.detach()) == 0
        assert float(losses.logs["known"]) == 0
        losses.total.backward()
        grads = [p.grad for group in step.groups for p in group["params"]]
        assert all(grad is not None and not bool(grad.any()) for grad in grads)


@pytest.mark.parametrize("task", [t for t in TASKS if t != "instances"])
def test_a_data_set_with_nothing_known_is_refused(task):
    with pytest.raises(InputError, match="None of the 6 images has a known pixel"):
        objective(task).dataset(Boxes(KINDS[task], void=True))


def test_a_data_set_without_instances_is_refused():
    with pytest.raises(InputError, match="None of the 6 images has an instance"):
        objective("instances").dataset(Boxes(empty=range(6)))
    # boundaries and distances of empty images are known: there are none
    assert not bool(objective("boundaries").dataset(Boxes(empty=range(6)))[0]["target"].any())


def test_faults(tmp_path):
    with pytest.raises(UnknownNameError, match=r"Unknown task 'boundarys'\. Closest: boundaries"):
        MaxaObjective("boundarys")
    with pytest.raises(UnknownNameError, match="maxa-"):
        registry().create("objective", "maxa-boundarys")
    with pytest.raises(ConfigError, match="flip needs images"):
        objective("depth", flip=True, cache=str(tmp_path))
    with pytest.raises(ConfigError, match="at least 1"):
        objective("depth", size=(0, 8))
    with pytest.raises(ConfigError, match="pixels would have no effect without numbered instances"):
        objective("depth", pixels=9)
    with pytest.raises(ConfigError, match=r"needs a data set of instances \(voc2012: instances=true"):
        objective("boundaries").dataset(Boxes("segmentation"))
    with pytest.raises(InputError, match=r"name .* and root"):
        objective("depth").dataset({"root": "x"})
    with pytest.raises(InputError, match="got str"):
        objective("depth").dataset("folder")
    with pytest.raises(InputError, match="no image"):
        objective("depth").dataset(Boxes("depth", count=0))
    part = objective("normals")
    with pytest.raises(InputError, match=r"Call dataset\(data\) first"):
        TrainStep(model("normals"), part, ())
    data = part.dataset(Boxes("normals"))
    with pytest.raises(ConfigError, match=r"needs a decoder with 3 output channel\(s\); this one has dim=1"):
        TrainStep(model("normals", dim=1), part, data)


def test_label_ids_out_of_range():
    class Wrong(Boxes):
        def annotation(self, ids):
            return ids + 2

    with pytest.raises(InputError, match=r"box-0 has the label ids \[3, 4\]; expected 0 to 2"):
        objective("semantic").dataset(Wrong("segmentation"))

    class Negative(Boxes):
        def annotation(self, ids):
            return ids - 5

    with pytest.raises(InputError, match="found -5"):
        objective("boundaries").dataset(Negative())


@pytest.mark.parametrize("values", [0.0, -1.0, float("inf")])
def test_depth_without_a_valid_pixel_is_refused(values):
    class Empty(Boxes):
        def annotation(self, ids):
            return torch.full((1, *ids.shape), values)

    with pytest.raises(
        InputError, match="None of the 6 images has a known pixel: every target is void, invalid or inf"
    ):
        objective("depth").dataset(Empty("depth"))


@pytest.mark.parametrize("task", ["boundaries", "distance", "instances"])
def test_instances_of_one_pixel_train_and_score(task):
    class Dots(Boxes):
        def annotation(self, ids):
            dots = torch.zeros_like(ids)
            dots[5, 7], dots[20, 40] = 1, 2
            return dots

    whole, made, losses = trained(task, 3, images=Dots(), size=(40, 56))
    assert all(loss == loss and loss < 100 for loss in losses)
    scores = made.score(whole, Dots())
    assert scores["images"] == 6
    assert all(value == value for value in scores.values())
