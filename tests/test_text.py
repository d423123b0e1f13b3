"""Text embeddings: a small random CLIP text tower made here, the file they are kept in, and what can go wrong."""

import json

import pytest
import torch
from dense_ctx_probes.text import TEMPLATES, TextEmbeddings, embed_text
from safetensors.torch import load_file, save_file
from torch.nn import functional

from dense_ctx import cli
from dense_ctx.errors import CheckpointError, FileError, InputError, MissingDependencyError, WeightsError
from dense_ctx.persistence.tensors import write_sealed

CLASSES = ("cat", "traffic light", "wall-concrete")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder with a CLIP text model of width 16 with random weights, and a tokenizer of single letters."""
    import transformers

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(33, 127)]
    words = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    tokenizer.model_max_length = 40
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=40, projection_dim=8, bos_token_id=len(words) - 2, eos_token_id=len(words) - 1,
    )  # fmt: skip
    transformers.CLIPTextModelWithProjection(config).save_pretrained(folder)
    return folder


def test_embeddings_are_the_mean_over_templates(clip):
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    embeddings = embed_text(CLASSES, str(clip))
    assert embeddings.vectors.shape == (3, 8)
    assert embeddings.templates == TEMPLATES
    torch.testing.assert_close(embeddings.vectors.norm(dim=1), torch.ones(3))
    tokenizer, model = AutoTokenizer.from_pretrained(clip), CLIPTextModelWithProjection.from_pretrained(clip).eval()
    for name, vector in zip(CLASSES, embeddings.vectors, strict=True):
        each = []
        for template in TEMPLATES:  # one at a time: padding must not matter
            with torch.no_grad():
                out = model(**tokenizer(template.format(name), return_tensors="pt")).text_embeds[0]
            each.append(out / out.norm())
        mean = torch.stack(each).mean(0)
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(embeddings.vectors[0], embeddings.vectors[1], atol=1e-3)


def test_round_trip(clip, tmp_path):
    embeddings = embed_text(CLASSES, str(clip), ["a {}"])
    again = TextEmbeddings.load(embeddings.save(tmp_path / "deep/text.safetensors"))
    assert (again.classes, again.model, again.templates) == (CLASSES, str(clip), ("a {}",))
    assert torch.equal(again.vectors, embeddings.vectors)
    assert torch.equal(again.pick(["wall-concrete", "cat"]), embeddings.vectors[[2, 0]])
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["text.safetensors"]


def test_missing_classes_and_files(tmp_path):
    embeddings = TextEmbeddings(CLASSES, functional.normalize(torch.rand(3, 4), dim=1), "a model")
    with pytest.raises(InputError, match="No text embedding for dog; the file has 3 classes, made by a model"):
        embeddings.pick(["cat", "dog"])
    with pytest.raises(FileError, match="make them with `dense-ctx text CLASSES --out"):
        TextEmbeddings.load(tmp_path / "none.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="is damaged"):
        TextEmbeddings.load(tmp_path / "a.safetensors")
    save_file({"vectors": torch.rand(3, 4)}, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match="has no sha256 in its header"):
        TextEmbeddings.load(tmp_path / "b.safetensors")
    write_sealed(tmp_path / "b.safetensors", {"vectors": torch.rand(3, 4)})
    with pytest.raises(CheckpointError, match="is not a file of text embeddings"):
        TextEmbeddings.load(tmp_path / "b.safetensors")
    meta = {"classes": '["a", "b"]', "model": "m", "templates": '["{}"]'}
    write_sealed(tmp_path / "c.safetensors", {"vectors": torch.rand(3, 4)}, meta)
    with pytest.raises(CheckpointError, match=r"embeddings of 2 classes: vectors is \[3, 4\], not \[2, 4\]"):
        TextEmbeddings.load(tmp_path / "c.safetensors")
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="Cannot write"):
        embeddings.save(tmp_path / "file/text.safetensors")


def test_what_is_asked_of_the_model(clip, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="at least one class"):
        embed_text([], str(clip))
    with pytest.raises(InputError, match=r"templates that hold \{\}"):
        embed_text(CLASSES, str(clip), ["a photo"])
    with pytest.raises(WeightsError, match=r"The text encoder .*nowhere is unavailable"):
        embed_text(CLASSES, str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="is unavailable"):
        embed_text(CLASSES, str(tmp_path / "empty"))


def test_a_model_without_the_projection_is_refused(clip, tmp_path):
    """transformers would fill what is missing with random numbers."""
    import shutil

    shutil.copytree(clip, tmp_path / "half")
    state = load_file(tmp_path / "half/model.safetensors")
    rest = {key: value for key, value in state.items() if "text_projection" not in key}
    assert len(rest) == len(state) - 1
    save_file(rest, tmp_path / "half/model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks text_projection\.weight"):
        embed_text(CLASSES, str(tmp_path / "half"))


@pytest.fixture(scope="module")
def other_clip(tmp_path_factory):
    """A folder with a whole CLIP of open_clip, width 16, random weights; the tokenizer comes with the package."""
    import open_clip

    folder = tmp_path_factory.mktemp("open_clip")
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def test_embeddings_of_an_open_clip_model(other_clip, tmp_path):
    import open_clip

    name = f"open_clip:local-dir:{other_clip}"
    vectors = embed_text(CLASSES, name)
    assert (vectors.vectors.shape, vectors.model) == ((3, 8), name)
    model = open_clip.create_model(f"local-dir:{other_clip}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{other_clip}")
    for name, vector in zip(CLASSES, vectors.vectors, strict=True):
        with torch.no_grad():
            each = [model.encode_text(tokenizer(t.format(name)), normalize=True)[0] for t in TEMPLATES]
        mean = torch.stack(each).mean(0)
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(vectors.vectors[0], vectors.vectors[1], atol=1e-3)
    (tmp_path / "classes.txt").write_text("cat\n")
    words = [
        "text",
        str(tmp_path / "classes.txt"),
        "--encoder",
        vectors.model,
        "--out",
        str(tmp_path / "t.safetensors"),
    ]
    assert cli.main(words) == 0
    torch.testing.assert_close(TextEmbeddings.load(tmp_path / "t.safetensors").vectors, vectors.vectors[:1])


def test_an_open_clip_model_without_its_weights_is_refused(other_clip, tmp_path):
    """open_clip would go on with random ones."""
    import shutil

    for name in ("none", "half"):
        shutil.copytree(other_clip, tmp_path / name)
    (tmp_path / "none/open_clip_model.safetensors").unlink()
    state = load_file(other_clip / "open_clip_model.safetensors")
    state.pop("text_projection")
    save_file(state, tmp_path / "half/open_clip_model.safetensors")
    for name in ("local-dir:" + str(tmp_path / "none"), "local-dir:" + str(tmp_path / "half"),
                 "local-dir:" + str(tmp_path / "nowhere"), "ViT-B-32/no-such-tag", "no-such-model/openai"):  # fmt: skip
        with pytest.raises(WeightsError, match=r"The text encoder open_clip:.* is unavailable: .*list_pretrained"):
            embed_text(CLASSES, f"open_clip:{name}")
    with pytest.raises(WeightsError, match="open_clip:ViT-B-32 names no weights: expected open_clip:NAME/TAG"):
        embed_text(CLASSES, "open_clip:ViT-B-32")


def test_open_clip_is_optional(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "dense-ctx\[open-clip\]"'):
        embed_text(CLASSES, "open_clip:ViT-B-32/openai")


def test_the_verb(clip, tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("cat\n\ndog\n")
    out = tmp_path / "text.safetensors"
    assert cli.main(["text", str(tmp_path / "classes.txt"), "--encoder", str(clip), "--out", str(out)]) == 0
    assert "2 classes, 8 dimensions -> " in capsys.readouterr().out
    assert TextEmbeddings.load(out).classes == ("cat", "dog")
    for words, message in (
        (["nothing.txt"], "is neither a data set nor a file of classes"),
        (["coco-stuff171"], "is a data set: give its root with --data"),
        ([str(out)], "is neither a data set nor a file of classes"),  # not a text file
    ):
        assert cli.main(["text", *words, "--encoder", str(clip), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
