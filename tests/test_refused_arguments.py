"""Arguments that would have no effect beside another, or in an evaluation that decides them, are refused by name."""

import typing

import pytest
import torch
from dense_ctx_probes.text import TextEmbeddings
from maxa_scenes import KINDS
from test_effects import target_of

from dense_ctx import registry
from dense_ctx.errors import ConfigError, InputError
from dense_ctx.interfaces import FitContext


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    """A file of text embeddings, in place of the word FILE."""
    path = tmp_path_factory.mktemp("refused") / "text.safetensors"
    vectors = torch.nn.functional.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    TextEmbeddings(("a", "b", "c"), vectors, "test").save(path)
    return str(path)


def with_file(args, embeddings):
    return {key: embeddings if value == "FILE" else value for key, value in args.items()}


# refused beside another argument. Not refused: `balance` with one cue, `sampling.cue_side` with the features cue alone;
# they are of however many cues there are, and leaving one out of a preset is the paper's own ablation
REFUSED = [
    ("conv", {"reads": "patches", "kernel": 3}, "kernel"),
    ("attention", {"reads": "patches", "heads": 2}, "heads"),
    ("attention", {"reads": "patches", "downscale": 2}, "downscale"),
    ("attention", {"reads": "patches", "with_norm": False}, "with_norm"),
    ("conv", {"low": 0.1}, "low"),
    ("conv", {"task": "regression", "high": 5.0}, "high"),
    ("conv", {"updates": 1, "replay": 4}, "replay"),
    ("zero-shot", {"embeddings": "FILE", "width": 64}, "width"),
    ("zero-shot", {"embeddings": "FILE", "classes": 3}, "classes"),
    ("zero-shot", {"embeddings": "random", "class_names": ["a"]}, "class_names"),
    ("retrieval", {"task": "regression", "mode": "official"}, "mode=official"),
    ("retrieval", {"task": "regression", "sampling": "balanced"}, "sampling=balanced"),
    ("retrieval", {"folder": "bank", "classes": 3, "device": "cuda"}, "device"),
    ("lila", {"cues": ["features"], "cue_cache": "folder"}, "cue_cache"),
    ("lila", {"features": {"pamr": False, "iterations": (1, 1, 1)}}, "features.iterations"),
    ("lila", {"features": {"pamr": False, "pyramid": (8, 2, 1)}}, "features.pyramid"),
    ("lila", {"features": {"pamr": False, "dilations": (1,)}}, "features.dilations"),
    *((f"maxa-{task}", {"pixels": 4}, "pixels") for task in KINDS if task != "instances"),
    ("maxa", {"task": "depth", "pixels": 4}, "pixels"),
]


@pytest.mark.parametrize(("name", "args", "argument"), REFUSED)
def test_an_argument_without_effect_beside_another_is_refused(name, args, argument, embeddings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind = "probe" if name in registry().names("probe") else "objective"
    args = with_file(args, embeddings)
    with pytest.raises(ConfigError, match=rf"^(objective: )?{argument} would have no effect .*leave it out"):
        registry().create(kind, name, **args)
    assert not list(tmp_path.iterdir())


def test_loss_of_directions_beside_bins_is_refused():
    with pytest.raises(ConfigError, match="loss=cosine compares directions, and bins predict one number"):
        registry().create("probe", "conv", task="regression", loss="cosine", bins=4)


@pytest.mark.parametrize(
    ("name", "args", "context", "words"),
    [
        ("conv", {"kernel": 3}, FitContext(reads="patches", steps=3), "kernel would have no effect with reads=patches"),
        ("conv", {"classes": 5}, FitContext(("a", "b")), "classes=5, and the data set has 2"),
        ("zero-shot", {"embeddings": "random", "unseen": [1]}, FitContext(("a", "b")), "unseen would have no effect"),
    ],
)
def test_an_argument_that_the_evaluation_decides_is_refused(name, args, context, words):
    with pytest.raises(ConfigError, match=words):
        registry().create("probe", name, **args).configure(context)


@pytest.mark.parametrize(
    ("kind", "name", "args", "argument"),
    [
        ("objective", "lila", {}, "cues"),
        ("probe", "zero-shot", {"embeddings": "FILE"}, "class_names"),
    ],
)
def test_a_text_in_place_of_a_list_is_not_read_letter_by_letter(kind, name, args, argument, embeddings):
    target = target_of(f"{kind} {name}")  # the class itself: the registry has its own check
    args = with_file(args, embeddings)
    with pytest.raises((ConfigError, InputError), match=f"{argument}='features' is one text; expected a list"):
        target(**args, **{argument: "features"})
    lists = {
        (kind, part, key)
        for kind in ("probe", "decoder", "objective")
        for part in registry().names(kind)
        for key, hint in typing.get_type_hints(target_of(f"{kind} {part}").__init__).items()
        if "Sequence[str]" in str(hint)
    }
    assert lists == {("objective", "lila", "cues"), ("probe", "zero-shot", "class_names")}, "add it to this test"
