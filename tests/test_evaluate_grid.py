"""Models and protocols of one `dense-ctx evaluate`: each backbone sees each image once, and no score changes."""

import json

import numpy as np
import pytest
import torch
from dense_ctx_backbones.efficientnet_lite import EfficientNetLite
from dense_ctx_benchmarks.grid import places
from dense_ctx_benchmarks.passes import BackbonePasses, backbone_digest
from evaluation_data import camvid, davis2016, same_revision

from dense_ctx import cli, create_backbone
from dense_ctx.errors import InputError
from dense_ctx.evaluate import Result
from dense_ctx.interfaces import Features
from dense_ctx.model_spec import open_model
from dense_ctx.testing import tiny_model

MAPS, LILA, COLOUR = "efficientnet-lite0+upsample", "lila-lite0", "rgb-xy+upsample"
LINEAR, KNN = "davis2016-linear-grid4-v1", "davis2016-knn-grid8-v1"


@pytest.fixture(autouse=True)
def _revision(monkeypatch):
    same_revision(monkeypatch)


@pytest.fixture
def forwards(monkeypatch):
    """The images that the network has seen, one after the other."""
    seen, plain = [], EfficientNetLite.forward

    def forward(self, images):
        seen.append(images)
        return plain(self, images)

    monkeypatch.setattr(EfficientNetLite, "forward", forward)
    return seen


def run(*words):
    assert cli.main([str(word) for word in ("evaluate", *words, "--device", "cpu")]) == 0


def test_each_backbone_sees_each_frame_once_and_scores_stay(tmp_path, capsys, forwards):
    data = davis2016(tmp_path / "davis", clips=("camel", "goat"), frames=4)
    out = tmp_path / "out"
    run("--models", MAPS, COLOUR, LILA, "--protocols", LINEAR, KNN, "--data", data, "--out", out)
    printed = capsys.readouterr().out
    assert len(forwards) == 8  # of 2 models under 2 protocols: 32 without sharing
    assert "backbone passes: 16 computed, 32 read again" in printed  # 8 of either backbone
    assert f"{LINEAR}: J&F-Mean (higher is better)" in printed
    assert not (out / ".features").exists()
    for model in (MAPS, COLOUR, LILA):
        for protocol in (LINEAR, KNN):
            alone = tmp_path / "alone" / protocol / model
            run(model, "--protocol", protocol, "--data", data, "--out", alone)
            together = Result.load(out / protocol / model / "result.json")
            assert together.digest() == Result.load(alone / "result.json").digest()


def test_images_that_train_a_probe_are_shared_too(tmp_path, capsys, forwards):
    data = camvid(tmp_path / "camvid", train=3, val=2)
    words = ["--data", data, "probe.args.iterations=2", "--protocol", "camvid-linear-grid4-v2"]
    run("--models", MAPS, LILA, *words, "--out", tmp_path / "out")
    assert "backbone passes: " in capsys.readouterr().out
    assert len(forwards) == 5
    run(LILA, *words, "--out", tmp_path / "alone")
    one, other = (
        Result.load(tmp_path / path / "result.json") for path in ("alone", f"out/camvid-linear-grid4-v2/{LILA}")
    )
    assert one.digest() == other.digest()


def test_a_killed_run_reads_what_it_has(tmp_path, forwards, monkeypatch):
    from dense_ctx_benchmarks import grid

    data = davis2016(tmp_path / "davis", clips=("camel",), frames=4)
    words = ["--models", MAPS, LILA, "--protocol", KNN, "--data", data, "--out", tmp_path / "out"]
    with monkeypatch.context() as patch:
        plain = grid.evaluate
        patch.setattr(grid, "evaluate", lambda model, *args, name, **options: (
            plain(model, *args, name=name, **options) if name == MAPS else (_ for _ in ()).throw(KeyboardInterrupt())
        ))  # fmt: skip
        assert cli.main(["evaluate", *map(str, words)]) == 130
    assert len(forwards) == 4
    run(*words)
    assert len(forwards) == 4


@pytest.mark.parametrize("share", ["0", "1kB"])
def test_without_room_each_computes_its_own(tmp_path, capsys, forwards, share):
    data = davis2016(tmp_path / "davis", clips=("camel",), frames=4)
    run("--models", MAPS, LILA, "--protocol", KNN, "--data", data, "--out", tmp_path / "out", "--share", share)
    assert len(forwards) == 8
    printed = capsys.readouterr().out
    assert ("--share was too small" in printed) == (share != "0")


def test_bad_grids_are_refused_before_any_work(tmp_path, capsys, forwards):
    data = davis2016(tmp_path / "davis", clips=("camel",))
    start = ["evaluate", "--protocol", KNN, "--data", str(data), "--out", str(tmp_path / "out")]
    for words, message in (
        (["--models", MAPS, MAPS], "is given twice"),
        (["--models", MAPS, LILA, "--share", "lots"], "share='lots' is not a size"),
        ([COLOUR, "--models", LILA], "MODEL would have no effect beside --models"),
        ([MAPS, "--share", "1GB"], "--share would have no effect with one model and one protocol"),
    ):
        assert cli.main([*start, *words]) == 2
        assert message in capsys.readouterr().err
    assert forwards == []
    with pytest.raises(InputError, match="would have one folder"):
        places(tmp_path, ["a/b", "a_b"], ["p"])


def test_backbones_are_one_by_class_weights_and_settings():
    assert backbone_digest(open_model(MAPS).backbone) == backbone_digest(open_model(LILA).backbone)
    one, other = tiny_model().backbone, tiny_model().backbone
    assert backbone_digest(one) == backbone_digest(other)
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    assert backbone_digest(one) != backbone_digest(other)
    shallow = open_model("efficientnet-lite0(layers=[1, 2])+upsample").backbone
    assert backbone_digest(shallow) != backbone_digest(open_model(MAPS).backbone)
    assert backbone_digest(one) != backbone_digest(one.double())


def test_what_a_repr_does_not_show_tells_backbones_apart():
    """Before, tables beyond a thousand numbers and functions made in one place were taken to be equal."""
    one, other = tiny_model().backbone, tiny_model().backbone
    for value, another in (
        (torch.zeros(5000), torch.zeros(5000).index_fill(0, torch.tensor([2500]), 1.0)),
        ([{"table": np.zeros(5000)}], [{"table": np.eye(1, 5000, 2500)[0]}]),
        (lambda images: images, lambda images: images + 1),
    ):
        one.extra, other.extra = value, value
        assert backbone_digest(one) == backbone_digest(other)
        other.extra = another
        assert backbone_digest(one) != backbone_digest(other)


@pytest.mark.parametrize("name", ["dinov2-s14", "dino-s16", "sam2-tiny", "hiera-tiny", "convnext-tiny", "radio-v3-b16"])
def test_two_openings_of_one_network_are_one(name):
    def digest():
        torch.manual_seed(0)
        small = {"depth": 2, "embed_dim": 24, "num_heads": 2} if name.startswith(("dino", "radio")) else {}
        return backbone_digest(create_backbone(name, weights=None, **small))

    assert digest() == digest()


def test_maps_are_read_as_they_were_and_pictures_and_precisions_are_told_apart(tmp_path):
    backbone, passes = open_model(MAPS).backbone, BackbonePasses(tmp_path, 1 << 30)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = backbone(images)
        with passes.shared(backbone, "float32"):
            first, again = backbone(images), backbone(images)
            backbone(images + 1)
        with passes.shared(backbone, "bfloat16"):
            backbone(images)
    assert (passes.computed, passes.read) == (3, 1)
    for item in (first, again):
        assert isinstance(item, Features)
        for one, other in zip(plain.maps, item.maps, strict=True):
            assert torch.equal(one, other)
            assert one.is_contiguous() == other.is_contiguous()  # in memory as before: sums keep their order
    assert backbone.forward.__func__ is EfficientNetLite.forward
    assert json.dumps(sorted(path.parent.name.rpartition("-")[2] for path in tmp_path.glob("*/*"))) == (
        '["bfloat16", "float32", "float32"]'
    )
