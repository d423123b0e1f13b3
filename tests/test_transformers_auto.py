"""transformers' Auto classes, pipelines and Trainer over what dense_ctx saves."""

import json
import subprocess
import sys

import dense_ctx_transformers.auto  # noqa: F401
import numpy as np
import pytest
import torch
from dense_ctx_predict import Predictor
from dense_ctx_transformers.configuration import DenseConfig
from dense_ctx_transformers.modeling import DenseBackbone, DenseFeatureModel, DenseForSemanticSegmentation
from dense_ctx_transformers.processing import DenseImageProcessor
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForSemanticSegmentation, Trainer, TrainingArguments, pipeline

from dense_ctx import AutoDenseModel, InContext
from dense_ctx.errors import CheckpointError, ConfigError, InputError
from dense_ctx.files import state_digest

HEAD = {"task": "segmentation", "classes": ["ground", "box"]}
PARTS = {
    "backbone": {"name": "efficientnet-lite0", "args": {"layers": [1, 2]}},
    "decoder": {"name": "dpt", "args": {"dim": 2, "width": 8, "shortcut": True}},
}
PROCESSOR = DenseImageProcessor()


def picture(seed=0, size=(48, 80)):
    image = np.random.default_rng(seed).integers(0, 80, (*size, 3), dtype=np.uint8)
    image[12:36, 20:44] = (220, 30, 20)
    return Image.fromarray(image)


MASK = torch.zeros(48, 80, dtype=torch.long)
MASK[12:36, 20:44] = 1


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return AutoDenseModel.from_parts("rgb-xy", "upsample")


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return model.save_pretrained(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture(scope="module")
def predictor(model, tmp_path_factory):
    """The predictor and its folder."""
    fitted = Predictor(InContext(model, method="ridge").fit(picture(), MASK), names={0: "ground", 1: "box"})
    return fitted, fitted.save(tmp_path_factory.mktemp("saved") / "predictor")


def test_features_by_name(model, folder):
    opened = AutoModel.from_pretrained(folder)
    assert type(opened) is DenseFeatureModel
    assert AutoConfig.from_pretrained(folder).backbone == {"name": "rgb-xy", "args": {}}
    images = PROCESSOR([picture(1), picture(2)])["pixel_values"]
    output, expected = opened(images), model(images)
    assert torch.equal(output.pixels, expected.pixels)
    grid = expected.patches.shape[-2:]
    assert torch.equal(output.last_hidden_state.transpose(1, 2).unflatten(2, grid), expected.patches)
    assert output.pooler_output is None
    assert torch.equal(opened(images, return_dict=False)[0], output.last_hidden_state)
    assert AutoModel.from_pretrained(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert AutoModel.from_pretrained(folder, dtype="auto").dtype == torch.float32


def test_maps_of_the_backbone(tmp_path):
    model = AutoDenseModel.from_parts("efficientnet-lite0", backbone_args={"weights": None})
    model.save_pretrained(tmp_path / "model")
    images = PROCESSOR(picture())["pixel_values"]
    expected = model.encode(images)[0].maps
    for chosen in (None, [0, -1]):
        backbone = DenseBackbone.from_pretrained(tmp_path / "model", out_indices=chosen)
        maps = backbone(images).feature_maps
        places = range(len(expected)) if chosen is None else chosen
        assert all(torch.equal(one, expected[place]) for one, place in zip(maps, places, strict=True))
        assert [one.shape[1] for one in maps] == backbone.channels
        assert [64 // stride for stride in backbone.strides] == [one.shape[2] for one in maps]  # padded to 64
    with pytest.raises(InputError, match=r"out_indices=\[9\]: the backbone has 4 maps, and 9 is none"):
        DenseBackbone.from_pretrained(tmp_path / "model", out_indices=[9])


def test_the_pipeline_of_features(model, folder):
    extract = pipeline("image-feature-extraction", model=str(folder), image_processor=PROCESSOR)
    (rows,) = extract(picture(3))
    expected = model(picture(3)).patches[0].flatten(1).T
    np.testing.assert_allclose(np.array(rows), expected.numpy(), atol=1e-6)


def test_the_pipeline_of_a_fitted_predictor(predictor):
    fitted, folder = predictor
    segment = pipeline("image-segmentation", model=str(folder), image_processor=PROCESSOR)
    masks = {item["label"]: np.asarray(item["mask"]) > 0 for item in segment(picture(4))}
    labels = fitted.predict(picture(4)).numpy()
    assert set(masks) == {"ground", "box"}
    assert (masks["ground"] == (labels == 0)).all()
    assert (masks["box"] == (labels == 1)).all()


def test_a_predictor_s_scores_and_saving(predictor, tmp_path):
    fitted, folder = predictor
    opened = AutoModelForSemanticSegmentation.from_pretrained(folder)
    images = PROCESSOR([picture(5), picture(6)])["pixel_values"]
    for logits, name in zip(opened(images).logits, (5, 6), strict=True):
        torch.testing.assert_close(logits.exp(), fitted.scores(picture(name)))
    opened.save_pretrained(tmp_path / "again")
    assert torch.equal(Predictor.from_pretrained(tmp_path / "again").predict(picture(5)), fitted.predict(picture(5)))
    with pytest.raises(InputError, match="fitted to examples and does not train"):
        opened(images, labels=MASK.expand(2, -1, -1))


class Pictures(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"pixel_values": PROCESSOR(picture(index))["pixel_values"][0], "labels": MASK}


def test_the_trainer_trains_a_head_that_dense_ctx_opens(tmp_path):
    torch.manual_seed(0)
    model = AutoModelForSemanticSegmentation.from_config(DenseConfig(**PARTS, output=HEAD))
    frozen = state_digest(model.backbone.state_dict())
    assert model.config.id2label == {0: "ground", 1: "box"}
    images = Pictures()[0]["pixel_values"][None]
    before = model(images, labels=MASK[None]).loss.item()
    args = {"report_to": [], "use_cpu": True, "logging_steps": 5, "disable_tqdm": True, "remove_unused_columns": False}
    settings = TrainingArguments(
        str(tmp_path / "run"), max_steps=20, save_steps=10, per_device_train_batch_size=4, learning_rate=0.01, **args
    )
    trainer = Trainer(model, settings, train_dataset=Pictures())
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    assert model(images, labels=MASK[None]).loss < 0.5 * before
    assert state_digest(model.backbone.state_dict()) == frozen
    predicted = Predictor.from_pretrained(tmp_path / "model").predict(picture(9))
    assert (predicted == MASK).float().mean() > 0.9
    logits = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "model")(images).logits
    torch.testing.assert_close(logits, model.eval()(images).logits)
    torch.manual_seed(1)  # a new head that goes on from the tenth step
    again = Trainer(
        AutoModelForSemanticSegmentation.from_config(DenseConfig(**PARTS, output=HEAD)),
        settings,
        train_dataset=Pictures(),
    )
    again.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-10"))
    torch.testing.assert_close(again.model.eval()(images).logits, logits, rtol=1e-3, atol=1e-3)


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path):
    weights = []
    for batch, accumulated in ((4, 1), (1, 4)):
        torch.manual_seed(0)
        model = AutoModelForSemanticSegmentation.from_config(DenseConfig(**PARTS, output=HEAD))
        settings = TrainingArguments(
            str(tmp_path / str(batch)), max_steps=1, per_device_train_batch_size=batch, learning_rate=0.1, optim="sgd",
            gradient_accumulation_steps=accumulated, max_grad_norm=0, report_to=[], use_cpu=True, disable_tqdm=True,
            remove_unused_columns=False,
        )  # fmt: skip
        Trainer(model, settings, train_dataset=Pictures()).train()
        weights.append({name: value.detach() for name, value in model.named_parameters() if value.requires_grad})
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5)


def test_renamed_labels_are_not_lost_in_saving(predictor, tmp_path):
    opened = AutoModelForSemanticSegmentation.from_pretrained(predictor[1], id2label={0: "ground", 1: "crate"})
    names = r"names \['ground', 'crate'\], and the folder would say \['ground', 'box'\]"
    with pytest.raises(InputError, match=names):
        opened.save_pretrained(tmp_path / "renamed")
    opened.config.id2label = {0: "ground", 1: "box", 2: "third"}
    with pytest.raises(InputError, match="'third'"):
        opened.save_pretrained(tmp_path / "renamed")
    assert not (tmp_path / "renamed").exists()


@pytest.mark.parametrize("option", ["output_hidden_states", "output_attentions"])
def test_outputs_that_there_are_none_of_are_refused(folder, predictor, option):
    images = PROCESSOR(picture())["pixel_values"]
    for opened in (AutoModel.from_pretrained(folder), AutoModelForSemanticSegmentation.from_pretrained(predictor[1])):
        with pytest.raises(InputError, match=rf"{option}=True: .* AutoBackbone"):
            opened(images, **{option: True})
        opened(images, **{option: False})
        with pytest.raises(TypeError, match="hidden_sates"):
            opened(images, hidden_sates=True)


def test_saved_folders_say_which_package_opens_them(folder, predictor):
    for place in (folder, predictor[1]):
        assert json.loads((place / "config.json").read_text())["model_type"] == "dense_ctx"
    code = f"from transformers import AutoConfig; AutoConfig.from_pretrained({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "model type `dense_ctx`" in done.stderr


def test_what_is_refused(folder, predictor, tmp_path):
    for option in ({"trust_remote_code": True}, {"device_map": "auto"}, {"quantization_config": {"bits": 4}}):
        with pytest.raises((InputError, ValueError), match=r"leave it out|remote"):
            DenseFeatureModel.from_pretrained(folder, **option)
    with pytest.raises(InputError, match="hiden=3 is neither an option of from_pretrained nor of DenseConfig"):
        DenseFeatureModel.from_pretrained(folder, hiden=3)
    with pytest.raises(ConfigError, match="has features but no trained head"):
        AutoModelForSemanticSegmentation.from_pretrained(folder)
    with pytest.raises(ConfigError, match="names no backbone and decoder"):
        AutoModel.from_config(DenseConfig())
    with pytest.raises(InputError, match="one size"):
        PROCESSOR([picture(), picture(size=(40, 60))])
    with pytest.raises(InputError, match="return_tensors='np'"):
        PROCESSOR(picture(), return_tensors="np")
    with pytest.raises(InputError, match="1 sizes for 2 images"):
        PROCESSOR.post_process_semantic_segmentation({"logits": torch.zeros(2, 2, 4, 4)}, [(8, 8)])
    model = DenseForSemanticSegmentation(DenseConfig(**PARTS, output=HEAD))
    with pytest.raises(InputError, match="labels are"):
        model(torch.rand(1, 3, 48, 80), labels=torch.zeros(1, 24, 40))
    with pytest.raises(InputError, match="push_to_hub=True"):
        model.save_pretrained(tmp_path / "pushed", push_to_hub=True)
    weights = tmp_path / "damaged" / "model.safetensors"
    AutoDenseModel.from_pretrained(folder).save_pretrained(weights.parent)
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match="damaged"):
        AutoModel.from_pretrained(weights.parent)


def test_sizes_after_the_network():
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 1, :, 2:] = 1
    (labels,) = PROCESSOR.post_process_semantic_segmentation({"logits": logits}, [(8, 8)])
    assert labels.shape == (8, 8)
    assert labels[:, :3].max() == 0
    assert labels[:, 5:].min() == 1
    assert PROCESSOR.post_process_semantic_segmentation({"logits": logits})[0].shape == (4, 4)


@pytest.mark.parametrize("training", [False, True])
def test_images_outside_0_to_1_are_refused_by_both_kinds_of_heads(predictor, training):
    sized = DenseForSemanticSegmentation(DenseConfig(**PARTS, output={**HEAD, "image_size": [32, 64]})).train(training)
    fitted = AutoModelForSemanticSegmentation.from_pretrained(predictor[1])
    images = PROCESSOR([picture(5), picture(6)])["pixel_values"]
    for model in (sized, fitted):
        assert model(images).logits.shape == (2, 2, 48, 80)
        for wrong in (images * 255, (images - 0.45) / 0.22):
            with pytest.raises(InputError, match=r"lies in \[0, 1\]"):
                model(wrong)
        torch.testing.assert_close(model((images * 255).round().byte()).logits, model(images).logits)


@pytest.mark.parametrize("option", [{key: {"name": "dpt", "args": {}}} for key in ("backbone", "decoder")])
def test_a_saved_model_s_parts_are_not_changed_by_name(folder, option):
    with pytest.raises(InputError, match="would have no effect on a saved model"):
        AutoModel.from_pretrained(folder, **option)


@pytest.mark.parametrize("option", [{"num_labels": 5}, {"id2label": {0: "a", 1: "b", 2: "c"}}])
def test_a_saved_model_s_number_of_classes_is_not_changed(predictor, option):
    with pytest.raises(InputError, match=r"labels .*where the saved model has 2"):
        AutoModelForSemanticSegmentation.from_pretrained(predictor[1], **option)
    names = AutoModelForSemanticSegmentation.from_pretrained(predictor[1], id2label={0: "a", 1: "b"}).config.id2label
    assert names == {0: "a", 1: "b"}


def test_images_outside_0_to_1_are_refused_in_training_too(folder):
    images = PROCESSOR(picture(5))["pixel_values"]
    for model in (AutoModel.from_pretrained(folder).train(), DenseBackbone.from_pretrained(folder).train()):
        model(images)
        with pytest.raises(InputError, match=r"lies in \[0, 1\]"):
            model(images * 255)


def test_labels_that_are_no_channels_are_refused_and_ignored_ones_teach_nothing():
    model = DenseForSemanticSegmentation(DenseConfig(**PARTS, output=HEAD))
    images = PROCESSOR(picture(5))["pixel_values"]
    for wrong, message in ((MASK[None] + 6, "hold [67]; expected 0 to 1"), (MASK[None] * 0.7, "got torch.float32")):
        with pytest.raises(InputError, match=message):
            model(images, labels=wrong)
    with pytest.raises(InputError, match="hold -100"):
        model(images, labels=MASK[None] * 0 - 100)
    loss = model(images, labels=MASK[None] * 0 + 255).loss
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    half = MASK[None].clone()
    half[:, 20:] = 255
    logits = model(images, labels=half).logits
    expected = torch.nn.functional.cross_entropy(logits[:, :, :20], half[:, :20])
    torch.testing.assert_close(model(images, labels=half).loss, expected)


def test_labels_beside_the_classes_and_weights_beside_the_model_are_refused(tmp_path):
    for labels in ({"num_labels": 7}, {"id2label": {0: "x", 1: "y", 2: "z"}}):
        with pytest.raises(ConfigError, match=r"labels .* for an output of 2 classes"):
            DenseConfig(**PARTS, output=HEAD, **labels)
    model = DenseForSemanticSegmentation(DenseConfig(**PARTS, output=HEAD))
    with pytest.raises(InputError, match="is not the model's own"):
        model.save_pretrained(tmp_path / "a", state_dict={key: value + 1 for key, value in model.state_dict().items()})
    model.save_pretrained(tmp_path / "a", state_dict=model.state_dict())
