"""A predictor whose probe needs a file: no saved folder may name one, so its user does, in code or on the shell."""

import pytest
import torch
from dense_ctx_predict import Predictor
from dense_ctx_probes.text import TextEmbeddings
from test_predict_cli import photo

from dense_ctx import cli
from dense_ctx.errors import ConfigError, InputError


@pytest.fixture
def place(tmp_path, monkeypatch, capsys):
    """photo.png, its mask, text.st, and `saved`, a predictor of a zero-shot probe."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo(tmp_path / "photo.png")).save("mask.png")
    vectors = torch.nn.functional.normalize(torch.randn(2, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    TextEmbeddings(("a", "b"), vectors, "m", ("{}",)).save("text.st")
    assert verb("--support", "photo.png:mask.png", "--method", METHOD, "--model", MODEL, "--save", "saved") == 0
    capsys.readouterr()
    return tmp_path


MODEL = "rgb-xy+upsample"
METHOD = "zero-shot(embeddings=text.st, updates=2)"


def masks(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}


def verb(*words):
    return cli.main(["predict", *words, "--device", "cpu"])


def test_a_predictor_that_needs_a_file_says_how_to_name_it(place, capsys):
    assert verb("--model", "saved", "--query", "photo.png") == 2
    message = capsys.readouterr().err
    assert "does not take embeddings='text.st' from a file" in message
    assert "--model 'FOLDER(probe={embeddings: ...})'" in message
    with pytest.raises(ConfigError, match="does not take embeddings"):
        Predictor.from_pretrained("saved")


def test_the_file_is_named_on_the_command_line(place):
    model = "saved(probe={embeddings: text.st})"
    assert verb("--support", "photo.png:mask.png", "--method", METHOD, "--model", MODEL, "--query", "photo.png",
                "--out", "first") == 0  # fmt: skip
    assert verb("--model", model, "--query", "photo.png", "--out", "again") == 0
    assert masks(place / "again") == masks(place / "first") != {}
    opened = Predictor.from_pretrained("saved", probe={"embeddings": "text.st"})
    assert opened.context.options["embeddings"] == "text.st"
    with pytest.raises(InputError, match="colour"):
        Predictor.from_pretrained("saved", probe={"embeddings": "text.st", "colour": 1})
    with pytest.raises(InputError, match="already fitted to examples"):
        raise_(verb, "--model", model, "--support", "photo.png:mask.png", "--query", "photo.png")


def raise_(call, *words):
    """The error itself, which the command line prints."""
    from argparse import Namespace

    from dense_ctx_predict.opening import from_arguments

    model = words[words.index("--model") + 1]
    return from_arguments(Namespace(model=model, device="cpu", dtype="float32", labels_in=None), [("a", "b")])


def test_options_of_a_probe_belong_to_what_has_one(place):
    from dense_ctx import AutoDenseModel

    AutoDenseModel.from_parts("rgb-xy", "dpt", decoder_args={"dim": 5, "width": 6}).save_pretrained("model")
    with pytest.raises(InputError, match="has a trained head and no probe"):
        Predictor.from_pretrained("model", probe={"embeddings": "text.st"})


@pytest.mark.parametrize("saved", [pytest.param(False, marks=pytest.mark.slow), True])
def test_other_processes_get_the_file_too(saved, place):
    words = ["--model", "saved(probe={embeddings: text.st})"] if saved else [
        "--support", "photo.png:mask.png", "--method", METHOD, "--model", MODEL]  # fmt: skip
    photo(place / "photos" / "x.png", 1)
    photo(place / "photos" / "y.png", 2)
    assert verb(*words, "--query", "photos", "--out", "one") == 0
    assert verb(*words, "--query", "photos", "--out", "two", "--processes", "2") == 0
    assert masks(place / "two") == masks(place / "one")
    assert len(masks(place / "one")) >= 2


def test_a_probe_of_other_classes_than_the_masks_is_refused():
    """Text of four classes, masks of two: an id above theirs has no meaning."""
    from dense_ctx import InContext
    from dense_ctx.testing import tiny_model

    image, mask = torch.rand(3, 16, 24), torch.arange(24).expand(16, 24) // 12
    context = InContext(tiny_model(), "zero-shot", embeddings="random", classes=4, updates=2).fit(image, mask)
    with pytest.raises(InputError, match="'zero-shot' predicts 4 classes, and the masks hold 2"):
        context.predict(image)
