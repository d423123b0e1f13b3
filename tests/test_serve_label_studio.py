"""Label Studio 1.23 itself, with our server as its model: `pytest -m clients tests/test_serve_label_studio.py`.

DENSE_CTX_TEST_DATA names the folder of real data: twenty images of CamVid. The page is looked at in Chromium.
"""

import importlib.util
import os
import threading
import time
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from explore_site import box, picture
from label_studio_process import EMAIL, PASSWORD, TOKEN, LabelStudio
from PIL import Image
from serve_site import brush, mask_of, overlap
from test_explore_page import CHROMIUM, FLAGS
from test_serve_command import Served

from dense_ctx.model_spec import DEFAULT_MODEL

DATA = os.environ.get("DENSE_CTX_TEST_DATA")
pytestmark = pytest.mark.clients
CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
SCALE = 5  # of the small scene


def config(*names):
    labels = "".join(f'<Label value="{name}"/>' for name in names)
    smart = "".join(f'<Label value="{name}" smart="true"/>' for name in names)
    return (
        f'<View><Image name="img" value="$image"/><BrushLabels name="tag" toName="img">{labels}</BrushLabels>'
        f'<KeyPointLabels name="kp" toName="img" smart="true">{smart}</KeyPointLabels></View>'
    )


def large(values):
    return values.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


@pytest.fixture(scope="module")
def label_studio(tmp_path_factory):
    with LabelStudio(tmp_path_factory.mktemp("studio") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def server(label_studio):
    with Served("--label-studio", label_studio.url, model=DEFAULT_MODEL, LABEL_STUDIO_API_KEY=TOKEN) as running:
        yield running


def connect(label_studio, number, address, **fields):
    """Connect the server to a project; the backend as Label Studio has it."""
    return label_studio.ask("/api/ml/", {"project": number, "url": address, "title": "dense_ctx", **fields})


def annotate(label_studio, task, masks):
    """Annotate a task with brush masks by name; the annotation's id."""
    regions = [brush(mask, name) for name, mask in masks.items()]
    return label_studio.ask(f"/api/tasks/{task}/annotations/", {"result": regions})["id"]


@pytest.fixture
def boxes(label_studio, tmp_path):
    """A project of five scenes with a box that moves."""
    files = []
    for index in range(5):
        files.append(tmp_path / f"photo{index}.jpg")
        Image.fromarray(large(picture(3 * index, index))).save(files[-1], quality=92)
    return label_studio.project(config("box"), files)


def test_annotate_connect_predict_correct(label_studio, server, boxes):
    number, tasks = boxes
    first = annotate(label_studio, tasks[0], {"box": large(box())})
    backend = connect(label_studio, number, server.address, is_interactive=True)
    assert backend["readable_state"] == "Connected"
    assert backend["model_version"].startswith("dense_ctx-")
    predictions = label_studio.predictions(number, tasks[1:])
    assert sorted(predictions) == sorted(tasks[1:])
    for index, task in enumerate(tasks[1:], 1):
        (region,) = predictions[task]["result"]
        assert overlap(mask_of(region), large(box(3 * index))) > 0.9
        assert 0 < predictions[task]["score"] < 1
        assert predictions[task]["model_version"] == backend["model_version"]
    # the annotation changes: another version, other predictions
    regions = [brush(~large(box()), "box")]
    label_studio.ask(f"/api/annotations/{first}/", {"result": regions}, "PATCH")
    again = label_studio.predictions(number, tasks[1:2])[tasks[1]]
    assert again["model_version"] != backend["model_version"]
    assert overlap(mask_of(again["result"][0]), ~large(box(3))) > 0.9
    # nothing is asked for twice: the version is the same
    assert label_studio.predictions(number, tasks[1:2])[tasks[1]]["id"] == again["id"]
    label_studio.ask(f"/api/annotations/{first}/", method="DELETE")
    prediction = label_studio.predictions(number, tasks[1:2])[tasks[1]]
    assert prediction["id"] == again["id"], "nothing is annotated any more: what there was stays"


def test_a_click(label_studio, server, boxes):
    number, tasks = boxes
    backend = connect(label_studio, number, server.address, is_interactive=True)
    value = {"x": 50, "y": 50, "width": 1, "labels": ["box"], "keypointlabels": ["box"]}
    mark = {"id": "k", "type": "keypointlabels", "from_name": "kp", "to_name": "img", "original_width": 64 * SCALE,
            "original_height": 48 * SCALE, "image_rotation": 0, "is_positive": True, "value": value}  # fmt: skip
    answer = label_studio.ask(
        f"/api/ml/{backend['id']}/interactive-annotating", {"task": tasks[0], "context": {"result": [mark]}}
    )
    (region,) = answer["data"]["result"]
    assert overlap(mask_of(region), large(box())) > 0.6
    assert region["value"]["brushlabels"] == ["box"]


def test_webhooks_of_annotations_at_once(label_studio, server, boxes):
    number, tasks = boxes
    connect(label_studio, number, server.address)
    threads = [
        threading.Thread(target=annotate, args=(label_studio, task, {"box": large(box(3 * index))}))
        for index, task in enumerate(tasks[:3])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    prediction = label_studio.predictions(number, tasks[4:])[tasks[4]]
    assert overlap(mask_of(prediction["result"][0]), large(box(12))) > 0.9


def test_what_label_studio_says_of_a_refusal(label_studio, server, boxes):
    number, tasks = boxes
    connect(label_studio, number, server.address)
    assert label_studio.predictions(number, tasks) == {}, "nothing is annotated"
    other = label_studio.ask("/api/projects/", {"title": "polygons", "label_config": config("box").replace(
        "BrushLabels", "PolygonLabels")})["id"]  # fmt: skip
    with pytest.raises(urllib.error.HTTPError) as refused:
        connect(label_studio, other, server.address)
    assert "it doesn't look like a valid ML backend" in refused.value.detail
    with Served("--label-studio", label_studio.url, "--label-studio-token", "wrong") as wrong:
        with pytest.raises(urllib.error.HTTPError) as refused:
            connect(label_studio, number, wrong.address)
        assert "502" in refused.value.detail
        assert "Label Studio refuses the token; expected a user's token" in wrong.end()[1]


def test_a_token_in_the_address_and_a_personal_access_token(label_studio, boxes):
    number, tasks = boxes
    annotate(label_studio, tasks[0], {"box": large(box())})
    key = label_studio.ask("/api/token/", {})["token"]
    words = ["--label-studio", label_studio.url, "--token", "letmein123"]
    with Served(*words, LABEL_STUDIO_API_KEY=key) as closed:
        with pytest.raises(urllib.error.HTTPError):
            connect(label_studio, number, closed.address)
        connect(label_studio, number, closed.address.replace("//", "//token:letmein123@"))
        assert len(label_studio.predictions(number, tasks[1:2])) == 1
        annotate(label_studio, tasks[2], {"box": large(box(6))})
        time.sleep(1)
        assert "/webhook: no token" not in closed.end()[1], "the webhook's address has the token too"


def look(label_studio, number, task, file):
    """The labelling page of a task as a picture."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        page = browser.new_page(viewport={"width": 1400, "height": 860})
        page.goto(f"{label_studio.url}/user/login/", timeout=120_000)
        page.fill("input[name=email]", EMAIL)
        page.fill("input[name=password]", PASSWORD)
        page.click("button[type=submit]")
        page.wait_for_load_state("networkidle", timeout=120_000)
        page.goto(f"{label_studio.url}/projects/{number}/data?task={task}", timeout=120_000)
        page.wait_for_selector("canvas", timeout=120_000)
        page.wait_for_timeout(8_000)
        page.screenshot(path=file)
        text = page.inner_text("body")
        browser.close()
    return np.asarray(Image.open(file).convert("RGB")).astype(int), text


@pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None,
    reason="no Chromium, or no playwright to drive it",
)
def test_the_page_shows_the_prediction(label_studio, server, boxes, tmp_path):
    number, tasks = boxes
    annotate(label_studio, tasks[0], {"box": large(box())})
    connect(label_studio, number, server.address)
    label_studio.predictions(number, tasks[1:])
    pixels, text = look(label_studio, number, tasks[2], tmp_path / "page.png")
    print(tmp_path / "page.png")
    assert "dense_ct" in text, "the prediction's tab"
    assert "box" in text
    coloured = (pixels.max(2) - pixels.min(2) > 25)[100:, 240:1080]  # the scene is grey
    assert coloured.mean() > 0.05


@pytest.mark.skipif(not DATA, reason="DENSE_CTX_TEST_DATA names no folder of real data")
def test_twenty_images_of_camvid(label_studio, tmp_path):
    root = Path(DATA) / "camvid" / "val"
    files = sorted((root / "images").iterdir())[::5][:20]
    truth = [np.asarray(Image.open(next((root / "labels").glob(f"{file.stem}*")))) for file in files]
    number, tasks = label_studio.project(config(*CAMVID), files)
    examples = (0, 10)
    for index in examples:
        present = {name: truth[index] == place for place, name in enumerate(CAMVID) if (truth[index] == place).any()}
        annotate(label_studio, tasks[index], present)
    words = ["--label-studio", label_studio.url, "--unlabelled", "ignore"]
    with Served(*words, model=DEFAULT_MODEL, LABEL_STUDIO_API_KEY=TOKEN) as server:
        connect(label_studio, number, server.address)
        rest = [index for index in range(20) if index not in examples]
        predictions, begun = {}, time.monotonic()
        for _ in range(8):  # a busy machine needs more than one request
            predictions = label_studio.predictions(number, [tasks[index] for index in rest])
            if len(predictions) == len(rest):
                break
        seconds = time.monotonic() - begun
    assert len(predictions) == 18
    counts = np.zeros((11, 11), dtype=int)
    for index in rest:
        labels = np.full(truth[index].shape, 255)
        for region in predictions[tasks[index]]["result"]:
            labels[mask_of(region)] = CAMVID.index(region["value"]["brushlabels"][0])
        valid = truth[index] < 11
        np.add.at(counts, (truth[index][valid], labels[valid]), 1)
    union = counts.sum(0) + counts.sum(1) - np.diag(counts)
    print(f"mIoU {(np.diag(counts) / union).mean():.3f} of 18 images from 2, {seconds:.0f} s")
    assert (np.diag(counts) / union).mean() > 0.65
