"""X-AnyLabeling 4.2 itself, its window drawn to memory: `pytest -m clients tests/test_serve_anylabeling_client.py`."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from client_environments import client_python
from explore_site import HEIGHT, WIDTH, box, picture
from PIL import Image
from serve_site import overlap, painted
from test_serve_anylabeling import annotated
from test_serve_command import Served

DRIVER = Path(__file__).with_name("anylabeling_client.py")
SIZE = 5 * HEIGHT, 5 * WIDTH


def large(values):
    return values.repeat(5, axis=0).repeat(5, axis=1)


@pytest.fixture(scope="module")
def program():
    return client_python("x-anylabeling", "x-anylabeling-cvhub[cpu]==4.2.1")


@pytest.mark.clients
def test_the_tool_itself(tmp_path, program):
    for name, count in (("photos", 3), ("clip", 4)):
        (tmp_path / name).mkdir()
        for index in range(count):
            Image.fromarray(large(picture(3 * index, index))).save(tmp_path / name / f"photo{index}.png")
    annotated(tmp_path / "photos", 0)
    file = tmp_path / "photos" / "photo0.json"
    data = json.loads(file.read_text())
    for shape in data["shapes"]:
        shape["points"] = (5 * np.array(shape["points"])).tolist()
    file.write_text(json.dumps({**data, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}))
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    with Served("--labels-in", tmp_path / "photos", "--method", "ridge", "--token", "letmein123") as server:
        done = subprocess.run(
            [program, DRIVER, server.address, "letmein123", tmp_path / "photos", tmp_path / "window.png"],
            capture_output=True, text=True, env=environment, timeout=300,
        )  # fmt: skip
        print(done.stderr[-3000:])
        assert done.returncode == 0
        wrong = subprocess.run(
            [program, DRIVER, server.address, "wrong-token", tmp_path / "photos", tmp_path / "other.png"],
            capture_output=True, text=True, env={**environment, "DENSE_CTX_SECONDS": "5"}, timeout=300,
        )  # fmt: skip
        status, errors = server.end()
    answers = json.loads(done.stdout.splitlines()[-1])
    print(tmp_path / "window.png", answers["messages"])
    assert answers["models"] == ["dense_ctx: classes", "dense_ctx: an object", "dense_ctx: an object in a clip"]
    assert answers["run_shown"]
    assert answers["point_shown"]
    assert answers["run_hidden"]
    (shape,) = answers["classes"]
    assert shape["label"] == "box"
    assert 0.5 < shape["score"] <= 1
    assert overlap(painted([shape["points"]], SIZE), large(box(3))) > 0.9
    assert answers["own"] == [1, 0]
    assert overlap(painted([s["points"] for s in answers["object"]], SIZE), large(box(6))) > 0.9
    assert "422" in answers["refusal"]
    assert "POST /v1/predict: marks=None; expected a list of 1 to 10,000" in errors
    assert overlap(painted([s["points"] for s in answers["prompt"]], SIZE), large(box(3))) > 0.9
    assert answers["written"] == ["photo0.json", "photo2.json", "photo3.json"], "the marked frame keeps what it has"
    for index in (0, 2, 3):
        (row,) = json.loads((tmp_path / "clip" / f"photo{index}.json").read_text())["shapes"]
        assert (row["label"], row["group_id"]) == ("box", 7)
        assert overlap(painted([row["points"]], SIZE), large(box(3 * index))) > 0.7
    assert wrong.returncode != 0
    assert "GET /v1/models: another token" in errors
    pixels = np.asarray(Image.open(tmp_path / "window.png").convert("RGB"))
    assert pixels.std() > 20, "a window with a picture"
    assert status == 130
