"""cvat-cli itself against a server on loopback: functions created, a task annotated, an agent that answers requests."""

import os
import re
import subprocess

import numpy as np
import pytest
from client_environments import client_python
from cvat_server import Server, scene, truth
from dense_ctx_cvat import shapes
from dense_ctx_predict import Predictor

from dense_ctx import AutoDenseModel, InContext

REQUIREMENTS = ("cvat-cli==2.80.0", "cvat-sdk==2.80.0")
LABELS = (("red box", "any"), ("green box", "any"))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    context = InContext(AutoDenseModel.from_parts("rgb-xy", "upsample").eval(), "ridge").fit([scene()], [truth()])
    names = {4: "red box", 9: "green box"}
    return Predictor(context, names=names).save(tmp_path_factory.mktemp("cvat") / "predictor")


def run(url, home, *words):
    """The output of cvat-cli."""
    program = client_python("cvat-cli", *REQUIREMENTS, with_dense_ctx=True)
    environment = {**os.environ, "CVAT_ACCESS_TOKEN": "token", "XDG_CACHE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [program, "-m", "cvat_cli", "--server-host", url, *words], capture_output=True, text=True, env=environment
    )
    print(done.stderr[-3000:])
    return done


def agent(server, tmp_path, module, parameters):
    """Create a function and run an agent that answers all waiting requests; the function."""
    words = ["--function-module", f"dense_ctx_cvat.{module}"]
    words += [word for name, value in parameters.items() for word in ("-p", f"{name}=str:{value}")]
    with server.running() as url:
        created = run(url, tmp_path, "function", "create-native", "Boxes", *words)
        assert created.returncode == 0, created.stderr
        number = created.stdout.strip()
        done = run(url, tmp_path, "function", "run-agent", number, "--burst", *words)
    assert done.returncode == 0, done.stderr
    return server.functions[int(number)], done


@pytest.mark.clients
def test_a_task_is_annotated(predictor, tmp_path):
    server = Server([scene(1, 24), scene(2, 28)], LABELS)
    words = ["task", "auto-annotate", "1", "--function-module", "dense_ctx_cvat.detection", "--clear-existing"]
    with server.running() as url:
        done = run(url, tmp_path, *words, "-p", f"model=str:{predictor}", "--conf-threshold", "0.5")
        assert done.returncode == 0, done.stderr
        wrong = run(url, tmp_path, *words, "-p", f"model=str:{tmp_path / 'missing'}")
    ((method, _, body),) = server.uploads
    assert method == "PUT"
    assert [(s["frame"], s["label_id"]) for s in body["shapes"]] == [(0, 100), (0, 101), (1, 100), (1, 101)]
    for item, left in zip(body["shapes"][::2], (24, 28), strict=True):
        reference = truth(left) == 4
        mask = shapes.mask_of("mask", item["points"], reference.shape)
        assert (mask & reference).sum() / (mask | reference).sum() > 0.9
    assert wrong.returncode != 0
    assert re.search("missing", wrong.stderr.strip().splitlines()[-1])


@pytest.mark.clients
def test_an_agent_detects(predictor, tmp_path):
    request = {"conv_mask_to_poly": False, "threshold": None, "mapping": {"red box": {"name": "green box"}}}
    requests = [
        {"type": "annotate_task", **request},
        {"type": "annotate_frame", "frame": 1, **request, "conv_mask_to_poly": True},
    ]
    server = Server([scene(1, 24), scene(2, 28)], LABELS, requests)
    function, _ = agent(server, tmp_path, "detection", {"model": predictor})
    assert function["kind"] == "detector"
    assert [(label["name"], label["type"]) for label in function["labels_v2"]] == [
        ("red box", "mask"), ("green box", "mask")]  # fmt: skip
    assert server.failures == {}
    frame, task = (server.results[place]["annotations"]["shapes"] for place in (0, 1))  # one frame goes first
    assert {(s["frame"], s["type"], s["label_id"]) for s in frame} == {(1, "polygon", 101)}
    assert [(s["frame"], s["type"], s["label_id"]) for s in task] == [(0, "mask", 101), (1, "mask", 101)]


@pytest.mark.clients
def test_an_agent_answers_clicks(tmp_path):
    click = {"type": "interact", "frame": 0, "pos_points": [[30, 20]], "neg_points": [[50, 20]], "obj_bbox": []}
    outside = {**click, "pos_points": [[300, 20]]}
    server = Server([scene()], LABELS, [click, {**click, "neg_points": []}, outside])
    function, done = agent(server, tmp_path, "interaction", {"model": "rgb-xy+upsample"})
    assert (function["kind"], function["min_pos_points"], function["min_neg_points"]) == ("interactor", 1, 1)
    assert function["startswith_box_optional"] is True
    (shape,) = server.results[0]["shapes"]
    mask, wanted = shapes.mask_of("mask", shape["points"], (48, 80)), truth() == 4
    assert (mask & wanted).sum() / (mask | wanted).sum() > 0.9
    assert "not enough negative points" in server.failures[1]["exc_info"]
    assert "(300, 20) is outside of the image of 80 x 48" in done.stderr


@pytest.mark.clients
@pytest.mark.parametrize("kind", ["mask", "polygon"])
def test_an_agent_tracks(tmp_path, kind):
    clip, mask = [scene(0, 20 + 3 * i) for i in range(3)], truth() == 4
    points = shapes.mask_points(mask) if kind == "mask" else shapes.polygon_points(shapes.outlines(mask)[0])
    requests = [{"type": "init_tracking", "frame": 0, "shapes": [{"type": kind, "points": points}]}]
    requests += [{"type": "track", "frame": frame} for frame in (1, 2)]
    server = Server(clip, LABELS, requests)
    function, _ = agent(server, tmp_path, "tracking", {"model": "rgb-xy+upsample"})
    assert (function["kind"], function["supported_shape_types"]) == ("tracker", ["mask", "polygon"])
    assert server.failures == {}
    for frame in (1, 2):
        (shape,) = server.results[frame]["shapes"]
        assert shape["type"] == kind
        carried = shapes.mask_of(kind, shape["points"], mask.shape)
        reference = np.roll(mask, 3 * frame, axis=1)
        assert (carried & reference).sum() / (carried | reference).sum() > 0.6
