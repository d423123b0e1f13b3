"""The objective `dip`: its contract, what trains, what is published, two processes, faults."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from dense_ctx_dip.objective import DipObjective
from dense_ctx_dip.pairs import TaskPairs
from dense_ctx_dip.trainable import last_stage
from dip_data import tasks
from ports import free_port
from torch import multiprocessing

from dense_ctx import AutoDenseModel
from dense_ctx.device import end_process_group
from dense_ctx.errors import ConfigError, FileError, InputError
from dense_ctx.testing import check_objective, tiny_model
from dense_ctx.train import TrainConfig, TrainStep, train

ARGS = {"size": 32, "out": 16, "hidden": 2}
NAME = "timm:vit_tiny_patch16_224"
VIT = {"weights": None, "embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": 32}


def vit(lora=False, **args):
    torch.manual_seed(0)
    if lora:
        return AutoDenseModel.from_parts(f"lora:{NAME}", "upsample", backbone_args={"args": VIT, **args})
    return AutoDenseModel.from_parts(NAME, "upsample", backbone_args=VIT)


@pytest.fixture
def data(tmp_path):
    return tasks(tmp_path)


@pytest.mark.parametrize(
    "args",
    [{}, {"loss": "official"}, {"official_distractors": True}, {"out": 0, "hidden": 7}, {"distractors": 0},
     {"train": "decoder"}, {"positives": "crops"}, {"direct": True, "out": 6144, "hidden": 7}],
)  # fmt: skip
def test_contract(data, args):
    assert "frozen" in check_objective("dip", data, args={**ARGS, **args}, batch_size=2)


@pytest.mark.parametrize("what", ["blocks", "adapters"])
def test_contract_on_a_vit(data, what):
    assert "frozen" in check_objective("dip", data, args={**ARGS, "train": what}, model=vit(what == "adapters"))


def batch_of(data, count=4, size=32, seed=0):
    objective = DipObjective(**{**ARGS, "size": size})
    pairs = objective.dataset(data)
    return objective, objective.collate([pairs.sample(i, seed + i) for i in range(count)])


def trained_names(model, **args):
    step = TrainStep(model, DipObjective(**{**ARGS, **args}), ())
    return [name for name, p in step.model.backbone.named_parameters() if p.requires_grad]


def test_the_last_blocks_and_the_final_norm_train():
    names = trained_names(vit())
    assert {name.split(".")[2] for name in names if ".blocks." in name} == {"1", "2", "3"}
    assert {"net.norm.weight", "net.norm.bias"} <= set(names)
    assert {n.split(".")[2] for n in trained_names(vit(), blocks=1) if ".blocks." in n} == {"3"}
    with pytest.raises(ConfigError, match="blocks=9, but TimmBackbone names 4 blocks: ask for 1 to that many"):
        trained_names(vit(), blocks=9)


def test_a_hierarchical_backbone_trains_its_last_stage():
    assert trained_names(tiny_model()) == ["deep.weight", "deep.bias"]
    lite = AutoDenseModel.from_parts("efficientnet-lite0", "upsample", backbone_args={"weights": None})
    before = {name: p.requires_grad for name, p in lite.backbone.named_parameters()}
    names = last_stage(lite.backbone)
    assert {name.split(".")[2] for name in names} == {"5", "6"}  # stride 32
    assert {name: p.requires_grad for name, p in lite.backbone.named_parameters()} == before
    one = AutoDenseModel.from_parts(NAME, "upsample", backbone_args={**VIT, "layers": [-1]}).backbone
    assert len(one.dims) == 1
    assert len(last_stage(one)) == len([*one.parameters()])


def test_lora_starts_as_the_bare_backbone_and_is_stored_alone(tmp_path, data):
    model, image = vit(lora=True, rank=2), torch.rand(1, 3, 32, 48)
    plain = vit()(image).patches
    objective = DipObjective(**ARGS, train="adapters")
    step = TrainStep(model, objective, ())
    assert torch.allclose(model(image).patches, plain, atol=1e-6)
    names = [name for name, p in model.backbone.named_parameters() if p.requires_grad]
    assert len(names) == 8
    assert all(".lora_" in name and ".qkv." in name for name in names)
    _, batch = batch_of(data)
    optimizer = torch.optim.SGD(step.groups, lr=10.0)
    for _ in range(2):
        optimizer.zero_grad()
        step(batch).total.backward()
        optimizer.step()
    assert not torch.allclose(model(image).patches, plain, atol=1e-4)
    model.save_pretrained(tmp_path / "model")
    again = AutoDenseModel.from_pretrained(tmp_path / "model")
    assert torch.allclose(again(image).patches, model(image).patches, atol=1e-6)
    with pytest.raises(ConfigError, match=r"no such linear layer or convolution; it has fc1, fc2, .*proj, qkv"):
        vit(lora=True, targets=["query_key"])


def test_adapters_are_refused_where_the_backbone_has_none():
    with pytest.raises(ConfigError, match=r"has none: use backbone lora:timm:vit_tiny_patch16_224, or train=blocks"):
        TrainStep(vit(), DipObjective(**ARGS, train="adapters"), ())
    with pytest.raises(ConfigError, match=r"TinyBackbone has none: use backbone lora:NAME, or"):
        TrainStep(tiny_model(), DipObjective(**ARGS, train="adapters"), ())


def test_several_folders_of_tasks_keep_their_classes_apart(tmp_path):
    parts = [tasks(tmp_path / name, count, classes=classes) for name, count, classes in (("a", 3, 4), ("b", 4, 3))]
    alone = [DipObjective(**ARGS).dataset(part) for part in parts]
    objective = DipObjective(**ARGS)
    both = objective.dataset(parts)
    assert (len(both), objective.classes) == (len(alone[0]) + len(alone[1]), 7)
    for index in range(len(both)):
        part, inside = divmod(index, len(alone[0])) if index < len(alone[0]) else (1, index - len(alone[0]))
        one, joined = alone[part].sample(inside, 5), both.sample(index, 5)
        assert torch.equal(one["query"], joined["query"])
        for key in ("query_labels", "positive_labels"):
            expected = torch.where(one[key] < 0, one[key], one[key] + 4 * part)
            assert torch.equal(joined[key], expected)
            assert expected.max() >= 4 * part
    assert "frozen" in check_objective("dip", parts, args=ARGS)
    with pytest.raises(ConfigError, match=r"classes=6, but .*a.*, .*b.* was made with 7 pseudo-classes"):
        DipObjective(**ARGS, classes=6).dataset(parts)
    with pytest.raises(ConfigError, match="empty list"):
        objective.dataset([])


@pytest.mark.parametrize("what", ["blocks", "adapters"])
def test_a_run_resumes_and_publishes_without_the_projector(tmp_path, data, what):
    backbone = {"name": f"lora:{NAME}", "args": {"args": VIT}} if what == "adapters" else {"name": NAME, "args": VIT}
    spec = {
        "model": {"backbone": backbone, "decoder": {"name": "upsample"}},
        "objective": {"name": "dip", "args": {**ARGS, "train": what}},
        "data": data, "batch_size": 2, "log": 1, "save": {"every": 1},
    }  # fmt: skip
    straight = train(TrainConfig.from_dict({**spec, "out": str(tmp_path / "a"), "steps": 3}))
    train(TrainConfig.from_dict({**spec, "out": str(tmp_path / "b"), "steps": 2}))
    resumed = train(TrainConfig.from_dict({**spec, "out": str(tmp_path / "b"), "steps": 3}))
    tensors = [AutoDenseModel.from_pretrained(folder).state_dict() for folder in (straight, resumed)]
    assert all(torch.equal(value, tensors[1][key]) for key, value in tensors[0].items())
    assert not any("projector" in key for key in tensors[0])


def test_the_loss_falls(data):
    """The colours are the classes: what an encoder must learn is there to be learnt."""
    torch.manual_seed(0)
    model = tiny_model()
    step = TrainStep(model, DipObjective(**ARGS, classes=4), ())
    _, batch = batch_of(data)
    optimizer = torch.optim.Adam(step.groups, lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = step(batch).total
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_direct_classification_is_cross_entropy_over_pixels(data):
    """The ablation without a support: the classifier's scores, upsampled, against each pixel's pseudo-class."""
    from torch.nn import functional

    _, batch = batch_of(data)
    objective = DipObjective(size=ARGS["size"], classes=4, direct=True)
    step = TrainStep(model := tiny_model(), objective, ())
    batch["query_labels"][1, :5] = -1
    losses = objective(model, batch)
    images, labels = (torch.cat([batch[f"query{end}"], batch[f"positive{end}"]]) for end in ("", "_labels"))
    maps = model.encode(images)[0].maps[-1]
    scores = objective.projector(maps.movedim(1, -1)).movedim(-1, 1)
    large = functional.interpolate(scores, labels.shape[-2:], mode="nearest")
    assert float(losses.total.detach()) == pytest.approx(
        float(functional.cross_entropy(large, labels, ignore_index=-1)), rel=1e-5
    )
    right = (large.argmax(1) == labels)[labels >= 0].float().mean()
    assert float(losses.logs["accuracy"]) == pytest.approx(float(right), abs=1e-6)
    losses.total.backward()
    assert all(bool(p.grad.any()) for p in step.parameters() if p.requires_grad)
    assert not any("projector" in name for name in model.state_dict())
    with pytest.raises(ConfigError, match="direct=true needs the number of pseudo-classes"):
        DipObjective(size=ARGS["size"], direct=True).setup(model, (), fresh=True)


def test_padding_to_the_stride_is_ignored(data):
    """30 pixels at stride 8 are padded to 32; the loss is that of labels which say so themselves."""
    objective, batch = batch_of(data, size=30)
    objective.setup(model := tiny_model(), (), fresh=True)
    loss = objective(model, batch).total
    batch["query_labels"][0, :, :] = -1
    other = objective(model, batch).total
    assert bool(loss.isfinite())
    assert not torch.allclose(loss, other)
    batch["query_labels"][:] = -1
    assert float(objective(model, batch).total.detach()) == 0.0


# ---------------------------------------------------------------------- several processes


def gradients(rank, world, data, folder, port):
    if world > 1:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    model = tiny_model()
    objective, batch = batch_of(data, count=4)
    batch["query_labels"][0, :9] = -1  # unequal numbers of labelled pixels
    if world > 1:
        batch = {key: value[2 * rank : 2 * rank + 2] for key, value in batch.items()}
    step = TrainStep(model, objective, ())
    wrapped = torch.nn.parallel.DistributedDataParallel(step) if world > 1 else step
    total = wrapped(batch).total
    total.backward()
    grads = {name: p.grad for name, p in step.named_parameters() if p.requires_grad}
    torch.save({"loss": total.detach(), **grads}, folder / f"{world}-{rank}.pt")
    if world > 1:
        del wrapped, step, total
        end_process_group()


def test_two_processes_are_one_with_the_joint_batch(tmp_path, data):
    port = free_port()
    gradients(0, 1, data, tmp_path, port)
    multiprocessing.spawn(gradients, (2, data, tmp_path, port), nprocs=2)
    one = torch.load(tmp_path / "1-0.pt")
    pair = [torch.load(tmp_path / f"2-{rank}.pt") for rank in range(2)]
    assert float(pair[0]["loss"] + pair[1]["loss"]) / 2 == pytest.approx(float(one["loss"]), rel=1e-5)
    assert len(one) > 4
    for name, value in one.items():
        if name == "loss":
            continue
        assert bool(value.any()), name
        for each in pair:  # float32 sums in another order
            assert (each[name] - value).abs().max() <= 2e-5 * max(1e-3, float(value.abs().max())), name


def test_the_pages_example_is_a_configuration():
    page = (Path(__file__).parent.parent / "docs/dip.md").read_text(encoding="utf-8")
    config = TrainConfig.from_dict(yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1]))
    assert config.batch_size // config.accumulate == 4
    assert DipObjective(**config.objective.args).loss == "official"  # to which the page's rate belongs


# ---------------------------------------------------------------------- data and faults


def test_crops_show_image_and_labels_alike(data):
    """Each class has its colour in the test's pictures, so a crop's colours must be its labels'."""
    from evaluation_data import COLOURS

    pairs = TaskPairs.open(data, size=48)
    assert len(pairs) == 8
    for index in range(8):
        sample = pairs.sample(index, index)
        picture = sample["query"].permute(1, 2, 0) * 255
        nearest = (picture[:, :, None] - torch.from_numpy(COLOURS)).abs().sum(-1).argmin(-1)
        assert float((nearest == sample["query_labels"]).float().mean()) > 0.85
    same, again = pairs.sample(3, 5), pairs.sample(3, 5)
    assert torch.equal(same["query"], again["query"])
    assert not torch.equal(same["query"], pairs.sample(3, 6)["query"])
    assert same["name"] == "1.png"


def test_lists_of_pairs_in_each_form(tmp_path, data):
    expected = TaskPairs.open(data).pairs
    forms = {
        "p.csv": "\n".join(",".join(pair) for pair in expected),
        "p.jsonl": "\n".join(json.dumps({"query": q, "positive": p, "shared": 0.2}) for q, p in expected),
        "p.json": json.dumps([[q, p] for q, p in expected]),
        "q.json": json.dumps({q: [p for other, p in expected if other == q] for q, _ in expected}),
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert TaskPairs.open({**data, "pairs": str(tmp_path / name)}).pairs == expected
    npy = tasks(tmp_path / "npy", suffix=".npy")
    assert TaskPairs.open(npy).sample(0, 0)["query_labels"].shape == (224, 224)


def test_faults_of_the_data(tmp_path, data):
    with pytest.raises(ConfigError, match="or a mapping of images, labels, pairs, classes"):
        TaskPairs.open({"images": "x"})
    with pytest.raises(FileError, match=r"holds no tasks \(manifest.json is missing\)"):
        TaskPairs.open(tmp_path / "nothing")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(FileError, match=r"holds no pair\. Lower the shared area"):
        TaskPairs.open({**data, "pairs": str(tmp_path / "empty.txt")})
    (tmp_path / "one.txt").write_text("0.png\n")
    with pytest.raises(FileError, match="a line with one name"):
        TaskPairs.open({**data, "pairs": str(tmp_path / "one.txt")})
    with pytest.raises(FileError, match="labels2 is not a folder"):
        TaskPairs.open({**data, "labels": str(tmp_path / "labels2")})
    with pytest.raises(InputError, match="the tasks were made with 2, 0 to 1"):
        [TaskPairs.open({**data, "classes": 2}).sample(index, 0) for index in range(8)]
    with pytest.raises(ConfigError, match=r"classes=3, but .* was made with 4"):
        DipObjective(**ARGS, classes=3).dataset(data)
    (tmp_path / "labels/0.png").unlink()
    with pytest.raises(FileError, match=r"No labels for 0\.png"):
        TaskPairs.open(data)


def test_given_distractors_may_be_none(data):
    objective, batch = batch_of(data)
    objective.setup(model := tiny_model(), (), fresh=True)
    total = objective(model, {**batch, "distractors": torch.empty(0, 4, dtype=torch.int64)}).total
    alone = DipObjective(**{**ARGS, "distractors": 0}, classes=objective.classes)
    alone.setup(model, (), fresh=True)
    alone.projector = objective.projector
    assert torch.equal(total, alone(model, batch).total)
    assert not torch.equal(total, objective(model, batch).total)


def test_faults_of_a_batch(data):
    objective, batch = batch_of(data, count=1)
    objective.setup(model := tiny_model(), (), fresh=True)
    with pytest.raises(InputError, match=r"the joint batch of all processes has 1 sample"):
        objective(model, batch)
    _, batch = batch_of(data)
    batch["positive_labels"][0, 0, 0] = 4
    with pytest.raises(InputError, match="label ids run up to 4; expected 0 to 3"):
        objective(model, batch)
    _, batch = batch_of(data)
    with pytest.raises(InputError, match=r"distractors are int64 \[n, 4\] of ids 0 to 3"):
        objective(model, {**batch, "distractors": torch.full((7, 4), 4)})
    with pytest.raises(InputError, match=r"distractors are int64 \[n, 4\]"):
        objective(model, {**batch, "distractors": torch.zeros(7, 4)})
    with pytest.raises(InputError, match="do not fit the images"):
        objective(model, {**batch, "query_labels": batch["query_labels"][:, ::2]})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"loss": "ce"}, "loss='ce': expected one of nll, official"),
        ({"train": "all"}, "train='all'"),
        ({"positives": "none"}, "positives='none'"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"direct": True, "loss": "official"}, "direct=true classifies with cross-entropy; loss='official'"),
        ({"out": 0, "projector_lr": 0.1}, "projector_lr would have no effect with out=0"),
        ({"out": 0, "hidden": 3}, "hidden would have no effect without a projector"),
        ({"direct": True, "out": 3}, "out would have no effect with direct=true"),
        ({"direct": True, "distractors": 3}, "distractors would have no effect with direct=true"),
        ({"direct": True, "temperature": 0.3}, "temperature would have no effect with direct=true"),
        ({"distractors": 0, "official_distractors": True}, "official_distractors would have no effect without dist"),
        ({"train": "decoder", "blocks": 2}, "blocks would have no effect with train=decoder: leave it out"),
        ({"resize": 64, "size": 32, "scale": [0.5, 1.0]}, "scale would have no effect with resize"),
        ({"resize": 31, "size": 32}, r"resize=31, size=32, .*needs an image of at least that side"),
        ({"resize": 64, "size": 32, "positives": "crops"}, "one and the same for two crops"),
        ({"scale": [0.0, 1.0]}, r"scale=\[0.0, 1.0\]: expected"),
    ],
)
def test_faults_of_the_settings(args, message):
    with pytest.raises(ConfigError, match=message):
        DipObjective(**args)


def test_without_a_word_the_adapters_train_where_there_are_some():
    from dense_ctx_dip.objective import DipObjective

    from dense_ctx import AutoDenseModel

    model = AutoDenseModel.from_parts("lora:efficientnet-lite0", "upsample", backbone_args={"weights": None})
    objective = DipObjective(out=0)
    groups = objective.setup(model, None, fresh=True)
    assert objective.what == "adapters"
    assert sum(len(group["params"]) for group in groups) == len(model.backbone.adapters())


def test_blocks_of_a_backbone_whose_adapters_train_are_refused_before_any_data():
    with pytest.raises(ConfigError, match=r"blocks=2 would have no effect with train=adapters.*give train=blocks"):
        DipObjective(**ARGS, blocks=2).check(vit(lora=True))
    DipObjective(**ARGS, blocks=2, train="blocks").check(vit(lora=True))


def test_the_published_preprocessing_is_torchvisions(data):
    from torchvision.transforms import v2

    from dense_ctx.images import load, load_mask

    pairs = DipObjective(**{**ARGS, "size": 28, "resize": 31}).dataset(data)
    sample = pairs.sample(0, 0)
    assert all(torch.equal(sample[key], pairs.sample(0, 1)[key]) for key in ("query", "positive", "query_labels"))
    cut = v2.Compose([v2.Resize(31, antialias=True), v2.CenterCrop(28)])
    torch.testing.assert_close(sample["query"], cut(load(f"{data['images']}/0.png")).clamp(0, 1))
    whole = v2.Resize(31, v2.InterpolationMode.NEAREST_EXACT)
    expected = v2.CenterCrop(28)(whole(load_mask(f"{data['labels']}/0.png")[None]))[0]
    assert torch.equal(sample["query_labels"], torch.where(expected == 255, -1, expected))


def test_biases_and_scales_do_not_decay(data):
    model, objective = vit(), DipObjective(**{**ARGS, "projector_lr": 0.5})
    groups = objective.setup(model, objective.dataset(data), fresh=True)
    assert [("lr" in g, g.get("weight_decay")) for g in groups] == [
        (False, None),
        (False, 0.0),
        (True, None),
        (True, 0.0),
    ]
    assert all((p.ndim > 1) == ("weight_decay" not in group) for group in groups for p in group["params"])
    trained = {id(p) for p in model.backbone.parameters() if p.requires_grad} | {id(p) for p in objective.parameters()}
    assert [id(p) for group in groups for p in group["params"]].__len__() == len(trained)


def official_tasks(root, masks=(24, 24)):
    """As published: `a.jpg: b.jpg` a line, masks as tensors of the square in the image's middle."""
    from evaluation_data import save, scene

    names = [f"train/{index:03d}.jpg" for index in range(3)]
    for index, name in enumerate(names):
        save(root / "images" / name, scene(index, (60, 90))[0])
        path = (root / "labels" / name).with_suffix(".pt")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.randint(0, 1000, (1, *masks), generator=torch.Generator().manual_seed(index)).float(), path)
    pairs = root / "COCO_train.txt"
    pairs.write_text(f"{names[0]}: {names[1]}\n{names[1]}: {names[2]}\n", encoding="utf-8")
    return {"images": str(root / "images"), "labels": str(root / "labels"), "pairs": str(pairs), "classes": 1000}


def test_the_published_lists_and_masks(tmp_path):
    data = official_tasks(tmp_path)
    pairs = TaskPairs.open(data, size=28, resize=32)
    assert pairs.pairs == [("train/000.jpg", "train/001.jpg"), ("train/001.jpg", "train/002.jpg")]
    sample = pairs.sample(1, 0)
    mask = torch.load(tmp_path / "labels/train/001.pt", weights_only=True)[0].long()
    reference = torch.nn.functional.interpolate(mask[None, None].double(), (28, 28), mode="nearest-exact")[0, 0].long()
    assert torch.equal(sample["query_labels"], reference)
    assert sample["query"].shape == (3, 28, 28)
    with pytest.raises(InputError, match=r"do not belong together \(labels of its middle square want resize=256\)"):
        TaskPairs.open(data, size=28).sample(0, 0)


@pytest.mark.parametrize("side", [60, 64])  # square, and nearly
def test_a_published_mask_is_of_the_middle_of_a_square_image_too(tmp_path, side):
    """The published loader brings each mask to the crop's size and cuts nothing off; labels of our own are whole."""
    from evaluation_data import save, scene

    data = official_tasks(tmp_path)
    save(tmp_path / "images/train/001.jpg", scene(1, (60, side))[0])
    mask = torch.zeros(1, 28, 28)
    mask[:, :7] = 1
    torch.save(mask, tmp_path / "labels/train/001.pt")
    assert torch.equal(TaskPairs.open(data, size=28, resize=32).sample(1, 0)["query_labels"], mask[0].long())
    np.save(tmp_path / "labels/train/001.npy", mask[0].long().numpy())
    (tmp_path / "labels/train/001.pt").unlink()
    rows = TaskPairs.open(data, size=28, resize=32).sample(1, 0)["query_labels"][:, 14]
    assert int(rows.sum()) == 6  # 7 of 28 rows of the image are 8 of its 32, of which the crop cuts off 2


def test_faults_of_published_lists_and_masks(tmp_path):
    data = official_tasks(tmp_path)
    mask = tmp_path / "labels/train/000.pt"
    bad = {
        "tensor": (torch.zeros(2, 4, 4, dtype=torch.long), r"holds int64 \[2, 4, 4\]; expected integers"),
        "fractions": (torch.full((4, 4), 0.5), r"holds float32 \[4, 4\]; expected integers"),
        "list": ([1, 2], "holds a list; expected a tensor"),
        "code": (print, "damaged, or holds more than a tensor and is not opened"),
    }
    for value, message in bad.values():
        torch.save(value, mask)
        with pytest.raises(FileError, match=message):
            TaskPairs.open(data, size=28, resize=32).sample(0, 0)
    mask.unlink()
    with pytest.raises(FileError, match=r"No labels for train/000\.jpg and 0 more: .*has none of 000\.jpg\.png"):
        TaskPairs.open(data)
    Path(data["pairs"]).write_text("train/000.jpg: train/009.jpg\ntrain/009.jpg: train/010.jpg\n", encoding="utf-8")
    with pytest.raises(FileError, match=r"names 2 images that are not in .*images, the first 'train/009\.jpg'"):
        TaskPairs.open(data)
