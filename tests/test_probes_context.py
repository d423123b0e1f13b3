"""What an evaluation tells a probe before its first batch: each field counts, and what a probe cannot do is refused."""

import pytest
import torch
from dense_ctx_lila.ridge import ridge_apply, ridge_fit
from dense_ctx_probes.gradient import GradientProbe
from dense_ctx_probes.ridge import RidgeProbe
from dense_ctx_probes.text import TextEmbeddings
from evaluation_data import camvid
from safetensors.torch import load_file
from torch.nn import functional

from dense_ctx import cli, registry
from dense_ctx.errors import ConfigError, InputError
from dense_ctx.evaluate import evaluate, load_protocol
from dense_ctx.evaluate.job import make_probe
from dense_ctx.interfaces import DenseFeatures, FitContext
from dense_ctx.testing import tiny_model

CLASSES = ("sky", "road", "tree")


def scene(seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels, patches = torch.randn(1, 6, 8, 12, generator=generator), torch.randn(1, 10, 2, 3, generator=generator)
    return DenseFeatures(pixels, patches), torch.randint(0, 3, (1, 8, 12), generator=generator)


@pytest.fixture
def text(tmp_path):
    vectors = functional.normalize(torch.randn(3, 7, generator=torch.Generator().manual_seed(0)), dim=1)
    return str(TextEmbeddings(CLASSES, vectors, "made up").save(tmp_path / "text.safetensors"))


def prediction(name, context, **args):
    probe = registry().create("probe", name, task="segmentation", **args)
    probe.configure(FitContext(**{"classes": CLASSES, "steps": 4, **context}))
    for seed in range(2):
        probe.partial_fit(*scene(seed))
    return probe.predict(scene(9)[0])


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("conv", [{"seed": 1}, {"reads": "patches"}, {"reads": "both"}, {"steps": 40}, {"classes": (*CLASSES, "car")}]),
        ("attention", [{"seed": 1}, {"reads": "patches"}, {"reads": "both"}, {"steps": 40}]),
        ("zero-shot", [{"seed": 1}, {"reads": "patches"}, {"steps": 40}, {"unseen": ("tree",)},
                       {"classes": CLASSES[::-1]}]),
    ],
)  # fmt: skip
def test_each_field_changes_what_is_predicted(name, changes, text):
    args = {"lr": 0.05, **({"embeddings": text} if name == "zero-shot" else {})}
    plain = prediction(name, {}, **args)
    assert torch.equal(prediction(name, {}, **args), plain)
    for change in changes:
        other = prediction(name, change, **args)
        assert other.shape != plain.shape or not torch.allclose(other, plain, atol=1e-4), change


def test_retrieval_reads_what_the_evaluation_reads():
    def read(evaluation, **args):
        probe = registry().create("probe", "retrieval", task="segmentation", k=3, **args)
        probe.configure(FitContext(CLASSES, reads=evaluation))
        return probe.partial_fit(*scene()).predict(scene(9)[0])

    assert not torch.allclose(read("pixels"), read("patches"))
    assert torch.equal(read("pixels", reads="patches"), read("patches"))  # its own argument stands above


@pytest.mark.parametrize("name", ["knn", "ensemble", "retrieval", "linear", "conv"])
def test_a_seed_of_its_own_stands_above_the_evaluations(name):
    for args, context, expected in (({}, 3, 3), ({"seed": 5}, 3, 5), ({"seed": 0}, 3, 0)):
        probe = registry().create("probe", name, task="segmentation", **args)
        probe.configure(FitContext(seed=context))
        assert probe.seed == expected


def test_a_seed_in_the_protocol_makes_every_seed_one(tmp_path):
    root = camvid(tmp_path / "data")
    settings = ["grid=4", "probe.args.memory=40", "probe.args.k=3"]
    for name, more in (("free", []), ("own", ["probe.args.seed=7"])):
        evaluate(
            tiny_model(), "camvid-retrieval-grid8-v1", root, tmp_path / name, overrides=settings + more, seeds=[0, 1]
        )
    for name, same in (("free", False), ("own", True)):
        banks = [load_file(tmp_path / name / f"parts/probe-{seed}.safetensors")["keys"] for seed in (0, 1)]
        assert (banks[0].shape == banks[1].shape and torch.equal(*banks)) == same


def test_without_steps_a_trained_probe_reads_the_pixels_it_is_given():
    features, targets = scene()
    probe = registry().create("probe", "conv", task="segmentation", updates=3)
    probe.configure(FitContext(CLASSES, reads="patches"))  # the evaluation has put them on the pixel grid
    changed = DenseFeatures(features.pixels, torch.zeros_like(features.patches))
    probe.partial_fit(features, targets)
    assert torch.equal(probe.predict(features), probe.predict(changed))


@pytest.mark.parametrize(
    ("name", "args", "context", "message"),
    [
        ("ridge", {}, {"steps": 5}, r"RidgeProbe is not trained by steps.*train=null"),
        ("knn", {}, {"unseen": ("tree",)}, "KnnProbe cannot predict classes without labels"),
        ("conv", {}, {"unseen": ("tree",), "steps": 5}, "ConvProbe cannot predict classes without labels"),
        ("conv", {"reads": "patches"}, {"steps": 5}, "reads=patches is set for the probe, .* reads pixels"),
        ("conv", {"reads": "both"}, {}, "set the protocol's own reads"),
        ("conv", {"replay": 0}, {"steps": 5}, "updates, replay and total_steps follow from the protocol's `train`"),
    ],
)
def test_what_a_probe_cannot_do_is_refused(name, args, context, message):
    probe = registry().create("probe", name, task="segmentation", **args)
    with pytest.raises(ConfigError, match=message):
        probe.configure(FitContext(CLASSES, **context))


@pytest.mark.parametrize("name", ["ridge", "linear", "knn", "retrieval"])
def test_a_closed_form_probe_under_steps_is_refused_by_name_and_leaves_nothing(tmp_path, capsys, name):
    root, out = camvid(tmp_path / "data"), tmp_path / "out"
    words = ["evaluate", "rgb-xy+upsample", "--protocol", "camvid-linear-grid4-v1", "--data", root, "--out", out]
    words += ["--device", "cpu", f"probe.name={name}", "probe.args={}"]
    assert cli.main([str(word) for word in words]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: camvid-linear-grid4-v1: probe '{name}': ")
    assert "train=null" in line
    assert not out.exists()


def test_a_protocol_passes_on_all_that_it_says():
    settings = ["train.steps=7", "reads=both", "probe.name=conv", "probe.args={}"]
    probe = make_probe(load_protocol("camvid-linear-grid4-v1", settings), 3, CLASSES)
    assert (probe.total_steps, probe.updates, probe.replay) == (7, 1, 0)
    assert (probe.reads, probe.classes, probe.seed) == ("both", 3, 3)


@pytest.mark.parametrize("name", registry().names("probe"))
def test_every_probe_follows_the_steps_it_is_given_or_says_that_it_is_not_trained_by_steps(name):
    args = {"embeddings": "random"} if name == "zero-shot" else {}
    head = registry().create("probe", name, **args)
    if not isinstance(head, GradientProbe):
        with pytest.raises(ConfigError, match=rf"^{type(head).__name__} is not trained by steps: .* such as conv$"):
            head.configure(FitContext(CLASSES, steps=5))
        return
    assert name in ("attention", "conv", "zero-shot")  # the message names one of these
    head.configure(FitContext(CLASSES, steps=5))
    head.partial_fit(*scene())
    assert (head.step_, head.total_steps) == (1, 5)


@pytest.mark.parametrize("bias", ["free", "penalized", "none"])
@pytest.mark.parametrize("mean", [True, False])
def test_the_conventions_of_the_ridge_probe(bias, mean):
    draw = torch.Generator().manual_seed(0)
    pixels, targets = torch.randn(2, 5, 6, 8, generator=draw), torch.randn(2, 3, 6, 8, generator=draw) + 1
    features = DenseFeatures(pixels, pixels)
    probe = registry().create("probe", "ridge", task="regression", penalty=0.3, bias=bias, mean=mean)
    probe.partial_fit(features, targets)
    rows, values = (item.movedim(1, -1).flatten(0, 2).double() for item in (pixels, targets))
    expected = ridge_apply(rows, ridge_fit(rows, values, 0.3, bias=bias, mean=mean)).float()
    output = probe.predict(features).movedim(1, -1).flatten(0, 2)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="expected one of free, penalized, none"):
        registry().create("probe", "ridge", bias="some")
    with pytest.raises(InputError, match="bias='some': expected one of free, penalized, none"):
        RidgeProbe(bias="some")
