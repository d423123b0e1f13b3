"""DIP's objective by definition: the loss of a batch, images of any size, distractors, settings at their limits."""

import pytest
import torch
from dense_ctx_dip.objective import DipObjective
from dense_ctx_dip.soft_labels import blocks_of, label_counts, prediction_loss, soft_predict
from dip_data import tasks

from dense_ctx.errors import ConfigError, InputError
from dense_ctx.testing import tiny_model


def batch(count=3, size=32, classes=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    cells = torch.randint(-1, classes, (2, count, size // 8, size // 8), generator=draw)
    labels = cells.repeat_interleave(8, 2).repeat_interleave(8, 3)
    images = torch.rand(2, count, 3, size, size, generator=draw)
    return {"query": images[0], "positive": images[1], "query_labels": labels[0], "positive_labels": labels[1],
            "seed": torch.arange(count)}  # fmt: skip


def objective(**args):
    torch.manual_seed(0)
    part = DipObjective(**{"size": 32, "out": 6, "hidden": 2, "classes": 4, **args})
    model = tiny_model()
    part.setup(model, (), fresh=True)
    return part, model


@pytest.mark.parametrize("loss", ["nll", "official"])
@pytest.mark.parametrize(("temperature", "classes"), [(0.07, 4), (0.5, 4), (0.3, 9), (0.3, None)])
def test_the_loss_of_a_batch_by_definition(loss, temperature, classes):
    made, model = objective(loss=loss, temperature=temperature, classes=classes)
    given, supports = batch(), torch.tensor([[1, 2, 0], [1, 0, 0]])
    given["positive_labels"][0] = -1  # the first query's own positive says nothing
    given["query_labels"][2] = -1
    output = made(model, {**given, "distractors": supports})
    rows, grid, _ = made._rows(model, torch.cat([given["query"], given["positive"]]))
    rows = made.projector(rows)
    counts = [label_counts(given[key], grid, 4) for key in ("query_labels", "positive_labels")]
    predicted, valid = soft_predict(rows[:3], rows[3:], counts[1], blocks_of(0, 3, supports), temperature)
    each = [prediction_loss(predicted[i : i + 1], counts[0][i : i + 1], loss, classes or 4) for i in range(3)]
    pixels = sum(number for _, number in each)
    torch.testing.assert_close(output.total, sum(value for value, _ in each) / pixels)
    right = counts[0].gather(-1, predicted.argmax(-1, keepdim=True)).sum() / pixels
    torch.testing.assert_close(output.logs["accuracy"], right)
    assert float(output.logs["unsupported"]) == 0
    assert bool(valid.all())
    alone = made(model, {**given, "distractors": supports[:0]})  # the first query has no labelled support
    assert float(alone.logs["unsupported"]) == pytest.approx(1 / 3)
    predicted, _ = soft_predict(rows[:3], rows[3:], counts[1], blocks_of(0, 3, supports[:0]), temperature)
    only, number = prediction_loss(predicted[1:2], counts[0][1:2], loss, classes or 4)
    torch.testing.assert_close(alone.total, only / number)
    given["query_labels"][:] = -1
    nothing = made(model, {**given, "distractors": supports})
    assert nothing.total.item() == nothing.logs["accuracy"].item() == 0


def test_the_loss_of_two_processes_is_of_the_joint_batch(monkeypatch):
    """This one has half of 2,000 pixels beside another's: its loss is scaled to half the joint number."""
    made, model = objective(distractors=0)
    alone = made(model, batch())
    pixels = float((batch()["query_labels"] >= 0).sum())
    monkeypatch.setattr("dense_ctx_dip.objective.world", lambda: (0, 2))
    monkeypatch.setattr("dense_ctx_dip.objective.total", lambda value: value + 500)
    joint = made(model, batch())
    torch.testing.assert_close(joint.total, alone.total * pixels / ((pixels + 500) / 2))
    direct, model = objective(direct=True, out=6144, hidden=7)
    scaled = direct(model, batch()).total
    monkeypatch.undo()
    both = pixels + float((batch()["positive_labels"] >= 0).sum())  # it classifies the positives too
    torch.testing.assert_close(scaled, direct(model, batch()).total * both / ((both + 500) / 2))


def test_accuracy_of_a_single_pixel():
    for args in ({}, {"direct": True, "out": 6144, "hidden": 7}):
        made, model = objective(**args)
        data = batch()
        data["query_labels"][:] = data["positive_labels"][:] = -1
        data["query_labels"][1, 3, 3] = 2
        if not args:
            data["positive_labels"][:, 3, 3] = 2
        logs = made(model, data).logs
        assert float(logs["accuracy"]) in ((0.0, 1.0) if args else (1.0,))
    right = set()
    for seed in range(12):
        torch.nn.init.normal_(made.projector[1].bias, generator=torch.Generator().manual_seed(seed))
        right.add(float(made(model, data).logs["accuracy"]))
    assert right == {0.0, 1.0}


def test_the_decoder_is_what_is_compared_where_it_trains():
    made, model = objective(train="decoder")
    data = batch()
    images = torch.cat([data["query"], data["positive"]])
    features, padded = model.encode(images)
    grid = tuple(features.maps[-1].shape[-2:])
    rows, found, full = made._rows(model, images)
    assert (found, full) == (grid, (32, 32))
    torch.testing.assert_close(rows, model.decoder(features, padded, grid).flatten(2).mT)
    plain, model = objective()
    torch.testing.assert_close(plain._rows(model, images)[0], model.encode(images)[0].maps[-1].flatten(2).mT)


@pytest.mark.parametrize("direct", [False, True])
def test_the_loss_of_a_single_pixel_is_its_own(direct):
    made, model = objective(**({"direct": True, "out": 6144, "hidden": 7} if direct else {}))
    data = batch()
    data["query_labels"][:] = -1
    data["query_labels"][1, 3, 3] = 2
    if direct:
        data["positive_labels"][:] = -1
    rows, grid, _ = made._rows(model, torch.cat([data["query"], data["positive"]]))
    rows, supports = made.projector(rows), torch.tensor([[1, 2, 0]])
    if direct:
        expected = -rows[1, 0].log_softmax(0)[2]
    else:
        counts = label_counts(data["positive_labels"], grid, 4)
        expected = -soft_predict(rows[:3], rows[3:], counts, blocks_of(0, 3, supports), 0.07)[0][1, 0, 2].log()
    assert expected > 0.1
    torch.testing.assert_close(made(model, {**data, "distractors": supports}).total, expected)


@pytest.mark.parametrize("loss", ["nll", "official"])
@pytest.mark.parametrize("classes", [None, 4])
def test_a_batch_without_a_label_costs_nothing(loss, classes):
    made, model = objective(loss=loss, classes=classes)
    data = batch()
    data["query_labels"][:] = data["positive_labels"][:] = -1
    output = made(model, data)
    assert output.total.item() == output.logs["accuracy"].item() == 0
    assert output.logs["unsupported"].item() == 1
    direct, model = objective(direct=True, out=6144, hidden=7)
    assert direct(model, data).total.item() == 0


@pytest.mark.parametrize("grid", [(0, 4), (4, 0)])
def test_features_of_no_patch_are_refused(monkeypatch, grid):
    made, model = objective()
    monkeypatch.setattr(made, "_rows", lambda model, images: (torch.zeros(6, 0, 8), grid, (32, 32)))
    with pytest.raises(InputError, match=r"Images \[32, 32\] give no patch"):
        made(model, batch())


def test_without_a_projector_features_are_compared_as_they_are():
    made, model = objective(out=0, hidden=7)
    given, supports = batch(), torch.tensor([[1, 2, 0]])
    rows, grid, _ = made._rows(model, torch.cat([given["query"], given["positive"]]))
    counts = [label_counts(given[key], grid, 4) for key in ("query_labels", "positive_labels")]
    predicted, _ = soft_predict(rows[:3], rows[3:], counts[1], blocks_of(0, 3, supports), 0.07)
    loss, pixels = prediction_loss(predicted, counts[0], "nll", 4)
    torch.testing.assert_close(made(model, {**given, "distractors": supports}).total, loss / pixels)


@pytest.mark.parametrize(("height", "width"), [(27, 44), (45, 18)])
def test_images_that_are_not_square_and_not_whole_strides(height, width):
    made, model = objective()
    inputs = {key: value[..., :height, :width] if value.ndim > 1 else value for key, value in batch(size=48).items()}
    images, supports = torch.cat([inputs["query"], inputs["positive"]]), torch.tensor([[1, 2, 0]])
    rows, grid, full = made._rows(model, images)
    assert full == tuple(model.encode(images)[1].shape[-2:])
    assert full != (height, width)
    rows, counts = made.projector(rows), []
    for key in ("query_labels", "positive_labels"):
        padded = torch.full((3, *full), -1)
        padded[:, :height, :width] = inputs[key]
        counts.append(label_counts(padded, grid, 4))
    predicted, _ = soft_predict(rows[:3], rows[3:], counts[1], blocks_of(0, 3, supports), 0.07)
    loss, pixels = prediction_loss(predicted, counts[0], "nll", 4)
    torch.testing.assert_close(made(model, {**inputs, "distractors": supports}).total, loss / pixels)
    for key in ("query_labels", "positive_labels"):
        for wrong in (inputs[key][:, 1:], inputs[key][:, :, 1:], inputs[key][:2]):
            with pytest.raises(InputError, match="do not fit the images"):
                made(model, {**inputs, key: wrong})


def test_classes_of_the_data_and_ones_own(tmp_path):
    data = tasks(tmp_path)
    part = DipObjective(size=32)
    part.dataset(data)
    assert part.classes == 4
    for classes in (4, 5):
        part = DipObjective(size=32, classes=classes)
        part.dataset(data)
        assert part.classes == classes
    assert not part.dataset(data).crops
    assert DipObjective(size=32, positives="crops").dataset(data).crops
    with pytest.raises(ConfigError, match="classes=3, but"):
        DipObjective(size=32, classes=3).dataset(data)


def test_drawn_distractors_follow_all_seeds_in_order():
    made, _ = objective()

    def drawn(*seeds):
        return made._distractors({"seed": torch.tensor(seeds)} if seeds else {}, 8, torch.device("cpu")).tolist()

    assert drawn(*range(8)) == drawn(*range(8))
    assert (
        len({str(drawn(*seeds)) for seeds in ([0] * 8, [1] + [0] * 7, [0] * 7 + [1], range(8), range(7, -1, -1))}) == 5
    )
    assert drawn() == drawn(*[0] * 8)
    assert len(drawn()) == 7
    assert drawn(*[(1 << 62) - 1] * 8) != drawn(*[3] * 8)
    for wrong in (torch.zeros(8), torch.zeros(2, 7).long(), torch.zeros(8).long(), torch.full((1, 8), -1),
                  torch.full((1, 8), 8)):  # fmt: skip
        with pytest.raises(InputError, match=r"distractors are int64 \[n, 8\]"):
            made._distractors({"distractors": wrong}, 8, torch.device("cpu"))
    assert made._distractors({"distractors": torch.full((1, 8), 7)}, 8, torch.device("cpu")).tolist() == [[7] * 8]


def test_settings_at_their_limits():
    fine = [
        {"distractors": 0}, {"temperature": 1e-6}, {"hidden": 1}, {"out": 0}, {"size": 1}, {"classes": 1},
        {"scale": [0.5, 0.5]}, {"scale": [1, 1]}, {"scale": (1e-6, 1.0)}, {"resize": 224}, {"resize": 256},
        {"train": "blocks", "blocks": 1}, {"blocks": 3}, {"direct": True}, {"projector_lr": 0.1},
        {"direct": True, "projector_lr": 0.1},
    ]  # fmt: skip
    wrong = [
        {"distractors": -1}, {"temperature": 0.0}, {"hidden": 0}, {"out": -1}, {"size": 0}, {"classes": 0},
        {"scale": [0.0, 1.0]}, {"scale": [0.5, 1.01]}, {"scale": [0.6, 0.5]}, {"scale": [0.5]},
        {"scale": [0.2, 0.5, 1.0]}, {"resize": 223}, {"resize": 256, "positives": "crops"},
        {"resize": 256, "scale": [0.4, 1.0]}, {"direct": True, "loss": "official"}, {"direct": True, "hidden": 6},
        {"direct": True, "official_distractors": True}, {"train": "adapters", "blocks": 1}, {"loss": "l1"},
        {"positives": "all"}, {"train": "every"}, {"direct": True, "out": 5}, {"direct": True, "distractors": 6},
        {"out": 0, "hidden": 6}, {"out": 0, "projector_lr": 0.1}, {"direct": True, "temperature": 0.08},
    ]  # fmt: skip
    for args in fine:
        DipObjective(**args)
    for args in wrong:
        with pytest.raises(ConfigError):
            DipObjective(**args)
    plain = DipObjective()
    assert (plain.distractors, plain.temperature, plain.hidden, plain.out, plain.size) == (7, 0.07, 7, 6144, 224)
    assert (plain.loss, plain.official_distractors, plain.direct, plain.scale) == ("nll", False, False, (0.4, 1.0))
    with pytest.raises(ConfigError, match="direct=true needs the number of pseudo-classes"):
        DipObjective(direct=True).setup(tiny_model(), (), fresh=True)


def test_heads_and_groups():
    made, _ = objective()
    assert [tuple(p.shape) for p in made.projector.parameters() if p.ndim == 2][1][0] == 6
    direct, _ = objective(direct=True, out=6144, hidden=7)
    assert direct.projector[1].out_features == 4
    bare, model = objective(out=0, hidden=7)
    assert bare.projector is None
    groups = bare.setup(model, (), fresh=True)
    assert all("lr" not in group for group in groups)
    rated = DipObjective(size=32, out=6, hidden=2, projector_lr=0.5)
    groups = rated.setup(tiny_model(), (), fresh=True)
    assert [group.get("lr") for group in groups][-2:] == [0.5, 0.5]
    first = rated.projector
    rated.setup(tiny_model(), (), fresh=True)
    assert rated.projector is first  # of a run that goes on
    decoder = DipObjective(size=32, out=6, hidden=2, train="decoder")
    model = tiny_model()
    decoder.setup(model, (), fresh=True)
    assert decoder.projector.fc1.in_features == model.dim
