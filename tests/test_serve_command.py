"""`dense-ctx serve` as a process, its options, and what it refuses."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from dense_ctx_predict import Predictor
from explore_site import HEIGHT, WIDTH, box, model, photos, picture
from PIL import Image
from serve_site import TOKEN, fake_studio, overlap, painted
from test_serve_anylabeling import annotated
from test_serve_studio import trained_head

from dense_ctx import InContext, cli
from dense_ctx.model_spec import DEFAULT_MODEL

MODEL = "rgb-xy+upsample"


class Served:
    """The command in a process of its own. lines: what it printed until it listens; address: without a token."""

    def __init__(self, *words, model=MODEL, **environment):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1",
                       **environment}  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dense_ctx.cli", "serve", "--model", model, "--port", "0", *map(str, words)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.lines = ""
        while "\n\n" not in self.lines.partition("X-AnyLabeling")[2]:
            line = self.process.stdout.readline()
            assert line, self.process.communicate()[1]
            self.lines += line
        self.address = re.search(r"http://[\d.]+:\d+", self.lines)[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end(signal.SIGKILL)

    def end(self, number=signal.SIGINT):
        """Send a signal; status and errors."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors

    def ask(self, path, body=None, **headers):
        """JSON of a request."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"content-type": "application/json", **headers})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())


def test_the_command_serves_both_tools(tmp_path):
    folder = photos(tmp_path / "photos")
    with fake_studio() as state:
        state.annotate(0)
        words = ["--labels-in", folder, "--label-studio", state.url, "--method", "knn(k=1)", "--unlabelled", "ignore"]
        with Served(*words, "--token", "letmein123", LABEL_STUDIO_API_KEY=TOKEN) as server:
            assert f"model backend {server.address.replace('//', '//token:letmein123@')}" in server.lines
            assert f"server {server.address}, API key letmein123" in server.lines
            assert set(server.ask("/v1/models", Token="letmein123")["data"]) == {"classes", "objects", "video"}
            assert server.ask("/health", Authorization="Bearer letmein123")["status"] == "UP"
            with pytest.raises(urllib.error.HTTPError, match="401"):
                server.ask("/health")
            body = {"project": "1.1", "tasks": state.tasks[1:2], "params": {}}
            with pytest.raises(urllib.error.HTTPError, match="409"):
                server.ask("/predict", body, Token="letmein123")
            status, errors = server.end()
        assert status == 130
        assert "POST /predict: annotation of box; expected of two classes at least" in errors
        assert "Traceback" not in errors


def run(capsys, *words):
    status = cli.main(["serve", "--port", "0", "--model", MODEL, *map(str, words)])
    return status, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--label-studio", "localhost"], "--label-studio localhost is not an address"),
        (["--label-studio", "http://localhost:1"], "--label-studio needs a user's token"),
        (["--label-studio-token", "x"], "--label-studio-token would have no effect without --label-studio"),
        (["--unlabelled", "ignore"], "--unlabelled would have no effect without --label-studio"),
        (["--seconds", "3"], "--seconds would have no effect without --label-studio"),
        (["--label-studio", "http://a", "--label-studio-token", "x", "--seconds", "0"], "--seconds 0 is not above 0"),
        (["--labels-from", "coco"], "--labels-from would have no effect without --labels-in"),
        (["--images", "a"], "--images would have no effect without --labels-in or --label-studio"),
        (["--method", "knn"], "--method would have no effect without --labels-in or --label-studio"),
        (["--labels-in", "nothing"], "nothing is not a folder"),
        (["--labels-in", ".", "--images", "nothing"], "nothing is not a folder"),
        (["--labels-in", ".", "--labels-from", "nothing"], "nothing"),
        (["--labels-in", ".", "--method", "nothing"], "nothing"),
        (["--port", "70000"], "--port 70000 is not a port"),
        (["--token", "a b"], "--token is at least 8 letters and digits"),
        (["--max-memory", "lots"], "lots"),
        (["--host", "no.such.host.example"], "--host no.such.host.example is no address of this machine"),
    ],
)
def test_a_wrong_option_is_one_line(capsys, monkeypatch, words, message):
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    status, errors = run(capsys, *words)
    assert status == 2
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors


def test_a_saved_predictor_predicts_by_itself(tmp_path, capsys):
    saved = trained_head("background", "box").save(tmp_path / "predictor")
    status, errors = run(capsys, "--model", saved, "--labels-in", tmp_path)
    assert (status, errors) == (2, "error: --labels-in would have no effect with a model that predicts by itself: "
                                   "leave it out\n")  # fmt: skip
    with Served(model=str(saved)) as server:
        assert server.ask("/v1/models")["data"]["classes"]["classes"] == ["box"]


def test_a_predictor_of_depth_is_refused(tmp_path, capsys):
    metres = np.ones((HEIGHT, WIDTH), np.float32) * 2.5
    context = InContext(model(), "ridge", "regression").fit(picture(), metres)
    saved = Predictor(context, "depth").save(tmp_path / "predictor")
    status, errors = run(capsys, "--model", saved)
    assert status == 2
    assert errors == "error: The model predicts depth; annotation tools take classes: name a model of classes\n"


def test_the_default_model(capsys):
    parser = cli.build_parser()
    assert parser.parse_args(["serve"]).model == DEFAULT_MODEL
    assert parser.parse_args(["serve"]).port == 8000


@pytest.mark.slow
def test_a_large_image_is_tiled_by_default(tmp_path):
    """Within less memory than the whole image takes, and refused where the words say so."""
    folder = photos(tmp_path / "photos", 2)
    for file in folder.iterdir():
        Image.open(file).resize((1600, 1200)).save(file)
    small = np.kron(box(), np.ones((25, 25), bool))
    annotated(folder, 0, small, size=small.shape)
    image = f"data:image/png;base64,{base64.b64encode((folder / 'photo1.png').read_bytes()).decode()}"
    body = {"model": "classes", "image": image, "params": {}}
    with Served("--labels-in", folder, "--method", "ridge", "--max-memory", "300MB approximate") as server:
        (shape,) = server.ask("/v1/predict", body)["data"]["shapes"]
        assert overlap(painted([shape["points"]], small.shape), np.roll(small, 75, axis=1)) > 0.85
    with Served("--labels-in", folder, "--method", "ridge", "--max-memory", "1MB") as server:
        with pytest.raises(urllib.error.HTTPError, match="507"):
            server.ask("/v1/predict", body)
        assert "max_memory=0.001 GB is not enough" in server.end()[1]
