"""Zero-shot segmentation: LILA's equations 7 to 11 by hand, and labels of unseen classes that must not leak."""

import numpy as np
import pytest
import torch
from dense_ctx_metrics.segmentation import confusion_matrix, harmonic, iou
from dense_ctx_probes.text import TextEmbeddings
from evaluation_data import image_folder, same_revision
from safetensors.torch import load_file
from torch.nn import functional

from dense_ctx import cli, registry
from dense_ctx.errors import ConfigError, FileError, InputError
from dense_ctx.evaluate import evaluate, load_protocol
from dense_ctx.evaluate.scorer import Scorer
from dense_ctx.interfaces import DenseFeatures
from dense_ctx.testing import tiny_model

H, W, CLASSES, UNSEEN = 8, 12, 5, (1, 4)


@pytest.fixture
def text(tmp_path):
    vectors = functional.normalize(torch.randn(CLASSES, 7, generator=torch.Generator().manual_seed(0)), dim=1)
    return TextEmbeddings(tuple("abcde"), vectors, "made up").save(tmp_path / "text.safetensors")


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels, patches = torch.randn(2, 6, H, W, generator=generator), torch.randn(2, 10, 2, 3, generator=generator)
    return DenseFeatures(pixels, patches), torch.randint(-1, CLASSES, (2, H, W), generator=generator)


def probe(text=None, **args):
    return registry().create("probe", "zero-shot", task="segmentation", embeddings=text, **{"updates": 1, **args})


def test_logits_are_equations_7_and_8(text):
    estimator = probe(text, updates=3).partial_fit(*batch())
    head, given = estimator.head_.eval(), batch(1)[0]
    vectors = TextEmbeddings.load(text).vectors

    def cosines(projection, maps):
        projected = projection(maps)
        return torch.einsum("behw,ce->bchw", projected / projected.norm(dim=1, keepdim=True), vectors)

    with torch.no_grad():
        encoder = cosines(head.encoder, given.patches)
        encoder = functional.interpolate(encoder, (H, W), mode="bilinear", align_corners=False)
        decoder = cosines(head.decoder, given.pixels)
        expected = head.scale.exp() * (head.mix[0] * encoder + head.mix[1] * decoder)
        torch.testing.assert_close(head(given), expected)
    assert head.mix.requires_grad
    assert head.scale.requires_grad
    assert not head.text.requires_grad
    torch.testing.assert_close(estimator.predict(given), expected.softmax(1))


def test_loss_is_equations_9_to_11(text):
    head = probe(text, unseen=UNSEEN)
    _, targets = batch()
    scores = 3 * torch.randn(2, CLASSES, H, W, generator=torch.Generator().manual_seed(3))
    p = scores.softmax(1).double().numpy()
    fit, negative = [], []
    for b in range(2):
        for y in range(H):
            for x in range(W):
                label = int(targets[b, y, x])
                if label in UNSEEN:
                    negative.append(sum(p[b, c, y, x] for c in range(CLASSES) if c not in UNSEEN) ** 2)
                elif label >= 0:
                    fit.append(-np.log(p[b, label, y, x]))
    expected = 0.1 * np.mean(fit) + np.mean(negative)
    assert float(head.objective(scores, targets)) == pytest.approx(expected, rel=1e-5)
    seen_only = targets.masked_fill(torch.isin(targets, torch.tensor(UNSEEN)), -1)
    assert float(head.objective(scores, seen_only)) == pytest.approx(np.mean(fit), rel=1e-5)  # nothing to push away
    unseen_only = targets.masked_fill(~torch.isin(targets, torch.tensor(UNSEEN)), -1)
    assert float(head.objective(scores, unseen_only)) == pytest.approx(np.mean(negative), rel=1e-5)


def test_labels_of_unseen_pixels_are_never_used(text):
    """Any unseen class may stand where one stands: the trained probe is the same to the bit."""
    features, targets = batch()
    exchanged = targets.clone()
    exchanged[targets == 1], exchanged[targets == 4] = 4, 1
    merged = torch.where(torch.isin(targets, torch.tensor(UNSEEN)), 4, targets)
    states = []
    for labels in (targets, exchanged, merged):
        estimator = probe(text, unseen=UNSEEN, updates=1, replay=0)
        for _ in range(5):
            estimator.partial_fit(features, labels)
        states.append(estimator.state_dict())
    for state in states[1:]:
        assert all(torch.equal(state[key], states[0][key]) for key in states[0])
    other = probe(text, unseen=UNSEEN, replay=0)
    other.partial_fit(features, torch.where(targets == 0, 2, targets))  # a seen label does count
    one = probe(text, unseen=UNSEEN, replay=0).partial_fit(features, targets).state_dict()
    assert any(not torch.equal(value, one[key]) for key, value in other.state_dict().items())


def test_an_unseen_class_is_found_by_its_text(text):
    """Features that lie in the text space: what is learned on seen classes carries over."""
    vectors = TextEmbeddings.load(text).vectors
    turn = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(2)))[0]

    def scene(seed):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, CLASSES, (2, H, W), generator=generator)
        pixels = (vectors @ turn)[labels].permute(0, 3, 1, 2)
        return DenseFeatures(pixels + 0.05 * torch.randn(pixels.shape, generator=generator), pixels), labels

    estimator = probe(text, unseen=(4,), reads="pixels", updates=400, lr=1e-2).partial_fit(*scene(0))
    features, labels = scene(1)
    output = estimator.predict(features).argmax(1)
    assert (output == labels)[labels != 4].float().mean() > 0.95
    assert (output == labels)[labels == 4].float().mean() > 0.5  # never shown, and one of five by chance


def test_scores_of_a_known_confusion_matrix():
    protocol = load_protocol("coco-stuff-zeroshot-grid4-v1", ["scoring.unseen=[b, e]"])
    counts = torch.randint(0, 50, (CLASSES, CLASSES), generator=torch.Generator().manual_seed(0))
    one = Scorer(protocol).new("abcde")
    one.merge({"images": 3, "confusion": counts.tolist()})
    scores = one.compute()
    values, parts, n = scores.values, scores.parts, scores.counts
    each = iou(counts)
    seen, unseen = float(each[[0, 2, 3]].mean()), float(each[[1, 4]].mean())
    assert values["seen"] == pytest.approx(seen)
    assert values["unseen"] == pytest.approx(unseen)
    assert values["harmonic"] == pytest.approx(2 * seen * unseen / (seen + unseen)) == harmonic(seen, unseen)
    assert values["miou"] == pytest.approx(float(each.mean()))
    assert parts == pytest.approx(dict(zip("abcde", each.tolist(), strict=True)))
    assert n == {"images": 3, "pixels": int(counts.sum())}


def test_evaluation_end_to_end(tmp_path, monkeypatch):
    same_revision(monkeypatch)
    root = image_folder(tmp_path / "mine")
    names = ("red", "green", "blue", "yellow")
    vectors = functional.normalize(torch.randn(4, 7, generator=torch.Generator().manual_seed(0)), dim=1)
    path = TextEmbeddings(names[::-1], vectors.flip(0), "made up").save(tmp_path / "text.safetensors")
    settings = [
        "data.name=image-folder", "scoring.unseen=[yellow]", f"probe.args.embeddings={path}", "image.short_side=null",
        "train.steps=4", "train.batch=2", "train.crop=null",
    ]  # fmt: skip
    result = evaluate(tiny_model(), "coco-stuff-zeroshot-grid4-v1", root, tmp_path / "out", overrides=settings)
    probe = registry().create("probe", "zero-shot", task="segmentation", embeddings=path, class_names=names)
    state = load_file(tmp_path / "out/parts/probe-0.safetensors")
    torch.testing.assert_close(state["head.text"], vectors)  # in the data set's order, whatever the file's
    probe.load_state_dict(state)
    from dense_ctx.data import open_set

    counts = torch.zeros(4, 4, dtype=torch.int64)
    for sample in open_set("image-folder", root, "val"):
        with torch.no_grad():
            features = tiny_model()(sample.image[None], size=(6, 9))
        counts += confusion_matrix(probe.predict(features, (24, 36))[0].argmax(0), sample.target, 4, ignore_index=-1)
    each = iou(counts)
    assert result.scores["seen"] == pytest.approx(float(each[:3].nanmean()))
    assert result.scores["unseen"] == pytest.approx(float(each[3]))
    with pytest.raises(InputError, match="unseen names classes that the data set lacks: mauve"):
        evaluate(tiny_model(), "coco-stuff-zeroshot-grid4-v1", root, tmp_path / "no",
                 overrides=[*settings[:1], "scoring.unseen=[mauve]", *settings[2:]])  # fmt: skip


def test_a_changed_file_of_embeddings_is_another_evaluation(tmp_path, monkeypatch):
    """The file's path is in the protocol, its content decides the number: no run goes on with another."""
    same_revision(monkeypatch)
    root, path = image_folder(tmp_path / "mine"), tmp_path / "text.safetensors"
    settings = ["data.name=image-folder", "scoring.unseen=[yellow]", f"probe.args.embeddings={path}",
                "image.short_side=null", "train.steps=2", "train.batch=2", "train.crop=null"]  # fmt: skip
    for seed in (0, 1):
        vectors = functional.normalize(torch.randn(4, 7, generator=torch.Generator().manual_seed(seed)), dim=1)
        TextEmbeddings(("red", "green", "blue", "yellow"), vectors, "made up").save(path)
        if seed:
            with pytest.raises(ConfigError, match=r"holds another evaluation .*files"):
                evaluate(tiny_model(), "coco-stuff-zeroshot-grid4-v1", root, tmp_path / "out", overrides=settings)
        else:
            first = evaluate(tiny_model(), "coco-stuff-zeroshot-grid4-v1", root, tmp_path / "out", overrides=settings)
    assert list(first.data["files"]) == ["probe.args.embeddings"]


def test_arguments_are_checked(text):
    with pytest.raises(InputError, match=r"unseen=\[9\]: class ids are 0 to 4"):
        probe(text, unseen=[9])
    with pytest.raises(InputError, match="No text embedding for z"):
        probe(text, class_names=["a", "z"])


def test_random_directions_stand_in_where_they_are_asked_for():
    features, targets = batch()
    estimator = probe("random", lr=1e-2).partial_fit(features, targets)
    assert estimator.head_.text.shape == (CLASSES, 64)
    torch.testing.assert_close(estimator.head_.text.norm(dim=1), torch.ones(CLASSES))
    with pytest.raises(ConfigError, match="needs text embeddings of the classes: give embeddings=FILE"):
        probe(None)


def test_predict_without_embeddings_is_refused_before_any_work(tmp_path, capsys):
    """It warned, and wrote masks from random directions."""
    words = ["predict", "--model", "no-such-model", "--support", "a.png:b.png", "--query", "c.png", "--method"]
    assert cli.main([*words, "zero-shot", "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: zero-shot needs text embeddings of the classes: give embeddings=FILE ")
    assert err.count("\n") == 1
    assert cli.main([*words, "zero-shot(embedings=random)"]) == 2
    assert "unknown key(s) embedings (did you mean embeddings?); known: class_names, " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_evaluation_without_embeddings_is_refused_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    same_revision(monkeypatch)
    root, out = image_folder(tmp_path / "mine"), tmp_path / "out"
    settings = ["data.name=image-folder", "scoring.unseen=[yellow]", "image.short_side=null",
                "train.steps=2", "train.batch=2", "train.crop=null"]  # fmt: skip
    with pytest.raises(ConfigError, match=r"needs text embeddings .* `dense-ctx text DATASET --data ROOT --out"):
        evaluate(tiny_model(), "coco-stuff-zeroshot-grid4-v1", root, out, overrides=settings)
    with pytest.raises(FileError, match=r"No text embeddings at nowhere\.safetensors; make them with `dense-ctx text"):
        evaluate(tiny_model(), "coco-stuff-zeroshot-grid4-v1", root, out,
                 overrides=[*settings, "probe.args.embeddings=nowhere.safetensors"])  # fmt: skip
    words = ["evaluate", "no-such-model", "--protocol", "coco-stuff-zeroshot-grid4-v1", "--data", str(root)]
    assert cli.main(words) == 2  # before the model is looked for
    err = capsys.readouterr().err
    assert err.startswith(
        "error: coco-stuff-zeroshot-grid4-v1: probe 'zero-shot': zero-shot needs text embeddings of the classes"
    )
    assert not out.exists()
    result = evaluate(tiny_model(), "coco-stuff-zeroshot-grid4-v1", root, out,
                      overrides=[*settings, "probe.args.embeddings=random"])  # fmt: skip
    assert "probe.args.embeddings=random" in result.protocol_id
