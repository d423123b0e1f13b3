"""X-AnyLabeling's remote-server protocol: models, classes of annotated images, an object at a click, clips."""

import base64
import json
import threading

import numpy as np
import pytest
from dense_ctx_serve import video
from dense_ctx_serve.outlines import polygons, simplified
from dense_ctx_serve.prompts import otsu
from explore_site import HEIGHT, WIDTH, box, photos, picture
from PIL import Image
from serve_site import encoded, overlap, painted, refusal, site
from test_serve_studio import trained_head

from dense_ctx.errors import FileError

WHOLE = {"type": "rectangle", "data": [0, 0, WIDTH, HEIGHT], "label": 1}
LARGE = 4 * HEIGHT, 4 * WIDTH


@pytest.fixture
def client():
    with site() as client:
        yield client


@pytest.fixture
def folder(tmp_path):
    return photos(tmp_path / "photos")


def uri(values, kind="png"):
    return f"data:image/{kind};base64,{base64.b64encode(encoded(values)).decode()}"


def point(x, y, label=1):
    return {"type": "point", "data": [x, y], "label": label}


def predict(client, image, model="objects", **params):
    """As the tool sends it."""
    params = {"conf_threshold": 0.0, "iou_threshold": 0.0, "epsilon_factor": 0.001, **params}
    return client.post("/v1/predict", json={"model": model, "image": image, "params": params})


def annotated(folder, index, mask=None, name="box", size=(HEIGHT, WIDTH), **fields):
    """A label file as X-AnyLabeling 4.2 writes it."""
    labels = box(3 * index) if mask is None else mask
    common = {"label": name, "score": None, "shape_type": "polygon", "group_id": None, "description": "",
              "difficult": False, "flags": {}, "attributes": {}, **fields}  # fmt: skip
    shapes = [{**common, "points": ring.tolist()} for _, ring in polygons(labels.astype(int), [1], 0, 1)]
    data = {"version": "4.2.1", "flags": {}, "checked": False, "shapes": shapes, "imagePath": f"photo{index}.png",
            "imageData": None, "imageHeight": size[0], "imageWidth": size[1], "description": ""}  # fmt: skip
    (folder / f"photo{index}.json").write_text(json.dumps(data))


def rings_of(response, key="shapes"):
    assert response.status_code == 200, response.text
    return [row["points"] for row in response.json()["data"][key]]


def test_models_are_listed(client, folder):
    listed = client.get("/v1/models").json()["data"]
    assert list(listed) == ["objects", "video"], "nothing is annotated"
    assert listed["objects"]["batch_processing_mode"] is None
    assert listed["video"]["batch_processing_mode"] == "video"
    assert {"button_add_point", "button_finish_object"} <= {row["name"] for row in listed["objects"]["widgets"]}
    with site(folder) as other:
        assert other.get("/v1/models").json()["data"]["classes"]["batch_processing_mode"] == "default"
    with site(head=trained_head("background", "box")) as other:
        facts = other.get("/v1/models").json()["data"]["classes"]
        assert (facts["classes"], facts["filter_classes"]) == (["box"], [])


def test_a_point_marks_an_object(client):
    answer = predict(client, uri(picture()), marks=[point(30, 20)])
    assert overlap(painted(rings_of(answer)), box()) > 0.9
    (shape,) = answer.json()["data"]["shapes"]
    assert (shape["label"], shape["shape_type"], shape["score"]) == ("AUTOLABEL_OBJECT", "polygon", None)
    assert shape["points"][0] == shape["points"][-1]
    assert answer.json()["data"]["replace"] is False
    assert not list(client.desk.place.iterdir()), "pictures do not pile up"


def test_points_beside_and_boxes(client):
    two = picture()
    two[12:36, 2:14] += 150
    both = predict(client, uri(two), marks=[point(30, 20), point(8, 20)])
    assert painted(rings_of(both))[20, 8]
    one = predict(client, uri(two), marks=[point(30, 20), point(8, 20, 0)])
    assert overlap(painted(rings_of(one)), box()) > 0.7
    assert not painted(rings_of(one))[:, :16].any()
    framed = predict(client, uri(two), marks=[{"type": "rectangle", "data": [16, 8, 50, 40], "label": 1}])
    mask = painted(rings_of(framed))
    assert overlap(mask, box()) > 0.75
    assert not mask[:, :15].any()
    removed = predict(
        client, uri(two), marks=[point(30, 20), {"type": "rectangle", "data": [30, 24, 44, 36], "label": 0}]
    )
    assert not painted(rings_of(removed))[26:34, 32:42].any()


def test_the_same_picture_by_two_requests_at_once(client):
    image, answers = uri(picture()), []

    def ask():
        answers.append(predict(client, image, marks=[point(30, 20)]))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({json.dumps(rings_of(answer)) for answer in answers}) == 1
    assert len(answers) == 6


def test_fineness_leaves_points_out(client):
    fine, coarse = (
        rings_of(predict(client, uri(_disc()), marks=[point(32, 24)], epsilon_factor=value)) for value in (0, 0.03)
    )
    assert len(fine[0]) > len(coarse[0]) >= 4
    assert overlap(painted(fine), _disc()[:, :, 0] > 128) > 0.9


def _disc():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    inside = (x - 32) ** 2 + (y - 24) ** 2 < 18**2
    return np.where(inside[..., None], 220, 30).astype(np.uint8).repeat(3, axis=2)


def test_what_is_annotated_in_the_folder_predicts_the_rest(folder):
    with site(folder) as client:
        image = uri(picture(3, 1))
        error = refusal(predict(client, image, "classes"))
        assert (error.status, error.next) == (409, "annotate at least one image, then ask again")
        annotated(folder, 0)
        answer = predict(client, image, "classes")
        assert overlap(painted(rings_of(answer)), box(3)) > 0.85
        (shape,) = answer.json()["data"]["shapes"]
        assert shape["label"] == "box"
        assert 0.5 < shape["score"] <= 1
        assert "replace" not in answer.json()["data"], "as its user has set it in the tool"
        annotated(folder, 0, ~box())  # corrected
        assert overlap(painted(rings_of(predict(client, image, "classes"))), ~box(3)) > 0.85


def test_predicted_files_teach_nothing_until_they_are_checked(folder):
    annotated(folder, 0)
    with site(folder) as client:
        image = uri(picture(3, 1))
        before = rings_of(predict(client, image, "classes"))
        annotated(folder, 2, ~box(6), score=0.7)  # as the tool saves what a model said
        assert rings_of(predict(client, image, "classes")) == before
        data = json.loads((folder / "photo2.json").read_text())
        (folder / "photo2.json").write_text(json.dumps({**data, "checked": True}))
        assert rings_of(predict(client, image, "classes")) != before


def test_an_annotated_image_keeps_its_shapes(folder):
    annotated(folder, 0)
    with site(folder) as client:
        content = base64.b64encode((folder / "photo0.png").read_bytes()).decode()
        answer = predict(client, f"data:image/png;base64,{content}", "classes").json()["data"]
        assert (answer["shapes"], answer["replace"]) == ([], False)


def test_classes_are_filtered_and_doubt_is_left_out(folder):
    annotated(folder, 0)
    with site(folder) as client:
        image = uri(picture(3, 1))
        assert rings_of(predict(client, image, "classes", filter_classes=["box"]))
        assert rings_of(predict(client, image, "classes", filter_classes=[]))
        assert not rings_of(predict(client, image, "classes", conf_threshold=1.0))
        assert refusal(predict(client, image, "classes", filter_classes=["cat"])).given == "filter_classes='cat'"


def test_another_format_and_its_options(folder):
    annotated(folder, 0)
    with site(folder, form="labelme(unlabelled=ignore)") as client:
        assert refusal(predict(client, uri(picture(3, 1)), "classes")).given == "annotation of box"


def test_a_head_predicts_by_itself():
    with site(head=trained_head("background", "box")) as client:
        assert overlap(painted(rings_of(predict(client, uri(picture(3, 1)), "classes"))), box(3)) > 0.85


def enlarged(values):
    """Four times as large: propagation's cells have 8 pixels."""
    return values.repeat(4, axis=0).repeat(4, axis=1)


def clip(client, count=5):
    frames = [uri(enlarged(picture(2 * index, 0))) for index in range(count)]
    answer = client.post("/v1/video/init", json={"model": "video", "frames": frames, "start_frame_index": 0})
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]["session_id"]


def prompt(client, session, frame=0, points=((30 / WIDTH, 20 / HEIGHT),), labels=(1,), **fields):
    body = {"session_id": session, "model": "video", "frame_index": frame, "points": [list(p) for p in points],
            "point_labels": list(labels), "obj_id": 10000,
            "params": {"conf_threshold": 0, "epsilon_factor": 0.001}, **fields}  # fmt: skip
    return client.post("/v1/video/prompt", json=body)


def propagate(client, session, **fields):
    answer = client.post("/v1/video/propagate/stream", json={"session_id": session, "model": "video", **fields})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


def test_an_object_is_carried_through_a_clip(client):
    session = clip(client)
    answer = prompt(client, session)
    assert overlap(painted(rings_of(answer, "masks"), LARGE), enlarged(box())) > 0.9
    events = propagate(client, session, start_frame=0)
    assert [event["type"] for event in events] == ["started", *["progress"] * 4, "completed"]
    assert events[0] == {"type": "started", "total_frames": 5, "start_frame_index": 0}
    results = events[-1]["results"]
    assert list(results) == ["1", "2", "3", "4"], "the marked frame has its polygon from the prompt"
    for frame, row in results.items():
        (shape,) = row["masks"]
        assert shape["group_id"] == 10000
        assert 0 < shape["score"] <= 1
        assert overlap(painted([shape["points"]], LARGE), enlarged(box(2 * int(frame)))) > 0.75
    assert list(propagate(client, session, start_frame=1, end_frame=2)[-1]["results"]) == ["1", "2"]
    assert client.post(f"/v1/video/cleanup/{session}", params={"model": "video"}).status_code == 200
    assert refusal(prompt(client, session)).status == 404
    assert not list(client.desk.place.iterdir()), "frames are removed"


def test_a_correction_and_a_second_object(client):
    session = clip(client)
    prompt(client, session)
    empty = prompt(client, session, points=[(3 / WIDTH, 3 / HEIGHT)])
    assert not painted(rings_of(empty, "masks"), LARGE)[96, 120], "the same object, marked anew, is elsewhere"
    prompt(client, session)
    other = prompt(client, session, points=[(3 / WIDTH, 3 / HEIGHT)], obj_id=7)
    assert {row["group_id"] for row in other.json()["data"]["masks"]} == {7}
    last = propagate(client, session)[-1]["results"]["4"]["masks"]
    assert {row["group_id"] for row in last} == {7, 10000}


def test_only_a_few_clips_are_open(client):
    sessions = [clip(client, 2) for _ in range(video.OPEN + 1)]
    assert refusal(prompt(client, sessions[0])).next == "begin again: POST /v1/video/init"
    assert prompt(client, sessions[-1]).status_code == 200


def test_clips_that_are_none(client):
    def init(frames, model="video"):
        return refusal(client.post("/v1/video/init", json={"model": model, "frames": frames}))

    assert init([]).given == "frames=0 items"
    assert init([uri(picture()), uri(picture()[:40])]).expected == "frames of one size"
    assert init([uri(picture()), "frame2"]).given.startswith("frames[1]=")
    assert init([uri(picture())], "objects").status == 404
    assert not list(client.desk.place.iterdir())
    session = clip(client, 3)
    assert refusal(client.post("/v1/video/propagate/stream", json={"session_id": session})).status == 409
    for fields, given in (
        ({"frame": 3}, "frame_index=3"),
        ({"points": [(1.5, 0)]}, "point [1.5, 0]"),
        ({"labels": [1, 0]}, "1 points and 2 labels"),
        ({"labels": [2]}, "label 2"),
        ({"obj_id": -1}, "obj_id=-1"),
        ({"text_prompt": "cat"}, "text_prompt='cat'"),
        ({"labels": [0]}, "Nothing is marked as the object"),
    ):
        response = prompt(client, session, **fields)
        assert response.status_code == 422
        assert given in response.json()["error"]["message"]
    prompt(client, session)
    for fields in ({"start_frame": 3}, {"start_frame": 1, "end_frame": 0}):
        response = client.post("/v1/video/propagate/stream", json={"session_id": session, **fields})
        assert response.status_code == 422


def test_requests_that_are_none(client):
    image = uri(picture())
    for response, status, given in (
        (predict(client, image, "sam"), 404, "model='sam'"),
        (predict(client, image, "classes"), 404, "model='classes'"),
        (predict(client, image, "video"), 404, "model='video'"),
        (predict(client, image, ""), 422, "model=''"),
        (predict(client, image), 422, "marks=None"),
        (predict(client, image, marks=[]), 422, "marks=0 items"),
        (predict(client, image, marks=[point(99, 5)]), 422, "outside of the image of 64 x 48"),
        (predict(client, image, marks=[point(5, 5, 0)]), 422, "Nothing is marked as the object"),
        (predict(client, image, marks=[{"type": "circle", "data": [1, 2], "label": 1}]), 422, "a mark"),
        (predict(client, image, marks=[{"type": "point", "data": [1, "x"], "label": 1}]), 422, "a mark"),
        (predict(client, image, marks=[{"type": "rectangle", "data": [1, 2], "label": 1}]), 422, "a mark"),
        (predict(client, image, marks=["mark"]), 422, "a mark"),
        (predict(client, image, marks=[WHOLE]), 422, "Nothing is marked as the object"),
        (predict(client, image, marks=[{**WHOLE, "label": 0}]), 422, "Nothing is marked as the object"),
        (predict(client, image, marks=[point(5, 5)], text_prompt="cat"), 422, "text_prompt='cat'"),
        (predict(client, image, marks=[point(5, 5)], epsilon_factor=2), 422, "epsilon_factor=2"),
        (predict(client, "photo.png", marks=[point(5, 5)]), 422, "image='photo.png'"),
        (predict(client, "data:image/png;base64,????", marks=[point(5, 5)]), 422, "image is not base64"),
        (predict(client, "data:image/png;base64,AAAA", marks=[point(5, 5)]), 422, "image is not an image that is read"),
        (predict(client, "data:image/svg+xml;base64,AAAA", marks=[point(5, 5)]), 422, "image='data:image/svg"),
        (client.post("/v1/predict", json=[]), 422, "model=None"),
    ):  # fmt: skip
        assert response.status_code == status, response.text
        assert given in response.json()["error"]["message"]
        assert "dense-ctx-serve" not in response.text
    large = {"content-type": "application/json", "content-length": str(1 << 28)}
    assert refusal(client.post("/v1/predict", content=b"x", headers=large)).status == 413


def test_the_token_as_each_tool_sends_it(capsys):
    with site(token="letmein123") as client:
        basic = base64.b64encode(b"token:letmein123").decode()
        for headers, status in (
            ({}, 401), ({"Token": "letmein123"}, 200), ({"Token": "wrong"}, 401),
            ({"Authorization": f"Basic {basic}"}, 200), ({"Authorization": "Basic ????"}, 401),
            ({"Authorization": "Basic " + base64.b64encode(b"letmein123:").decode()}, 401),
            ({"Authorization": "Bearer letmein123"}, 200),
        ):  # fmt: skip
            assert client.get("/v1/models", headers=headers).status_code == status, headers
    assert "GET /v1/models: no token; expected the token that was printed" in capsys.readouterr().err


def test_images_beside_another_folder(tmp_path, folder):
    annotated(folder, 0)
    labels = tmp_path / "labels"
    labels.mkdir()
    (folder / "photo0.json").rename(labels / "photo0.json")
    with site(labels, images=folder) as client:
        assert overlap(painted(rings_of(predict(client, uri(picture(3, 1)), "classes"))), box(3)) > 0.85
    with site(labels) as client:
        assert "photo0.png" in predict(client, uri(picture()), "classes").json()["error"]["message"]


def test_folders_that_are_none(tmp_path, folder):
    with pytest.raises(FileError, match="is not a folder"), site(tmp_path / "nothing"):
        pass
    (folder / "photo0.json").write_text("{")
    with site(folder) as client:
        response = predict(client, uri(picture()), "classes")
        assert response.status_code == 507
        assert "photo0.json is not JSON" in response.json()["error"]["message"]
    annotated(folder, 0)
    (folder / "photo0.png").unlink()
    with site(folder) as client:
        assert "photo0.png" in predict(client, uri(picture()), "classes").json()["error"]["message"]


def test_rings_are_simplified_within_a_tolerance():
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    ring = np.stack([50 + 40 * np.cos(angle), 50 + 30 * np.sin(angle)], axis=1)
    simple = simplified(ring, 1.0)
    assert 8 <= len(simple) < 40
    following = np.roll(simple, -1, axis=0)
    for place in ring:
        along = np.clip(((place - simple) * (following - simple)).sum(1) / ((following - simple) ** 2).sum(1), 0, 1)
        nearest = simple + along[:, None] * (following - simple)
        assert np.hypot(*(place - nearest).T).min() <= 1.0 + 1e-9
    labels = np.zeros((40, 40), int)
    labels[5:30, 5:30], labels[35:37, 35:37] = 1, 1
    assert [len(ring) for _, ring in polygons(labels, [1], 0.0, 5)] == [4], "a region of 4 pixels is left out"


def test_holes_are_left_to_what_fills_them():
    labels = np.zeros((40, 40), int)
    labels[5:30, 5:30] = 1
    labels[10:20, 10:20] = 2
    assert [(value, len(ring)) for value, ring in polygons(labels, [2, 1], 0.0, 1)] == [(1, 4), (2, 4)]
    ((_, ring),) = polygons(labels, [1], 0.0, 1)
    assert overlap(painted([ring], (40, 40)), labels == 1) == 1.0, "a hole that nothing fills is one, by a slit"
    ((_, ring),) = polygons(labels, [1], 0.0, 101)
    assert len(ring) == 4, "a hole of 100 pixels"
    labels[12:15, 12:15] = 0
    assert [value for value, _ in polygons(labels, [1, 2], 0.0, 1)] == [1, 2]


def test_the_threshold_lies_between_two_groups():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.2, 0.03, 900), rng.normal(0.8, 0.03, 100)]).astype(np.float32)
    assert 0.3 < otsu(values) < 0.7


def test_greyscale_and_large_pictures(client):
    grey = picture()[:, :, 0]
    assert overlap(painted(rings_of(predict(client, uri(grey), marks=[point(30, 20)]))), box()) > 0.85
    jpeg = f"data:image/jpeg;base64,{base64.b64encode(encoded(picture(), 'JPEG')).decode()}"
    assert rings_of(predict(client, jpeg, marks=[point(30, 20)]))
    large = np.asarray(Image.fromarray(picture()).resize((WIDTH * 20, HEIGHT * 20)))
    rings = rings_of(predict(client, uri(large), marks=[point(600, 400)]))
    assert overlap(painted(rings, large.shape[:2]), np.kron(box(), np.ones((20, 20), bool))) > 0.85


def test_objects_in_frames_of_their_own_are_refused(client):
    session = clip(client)
    prompt(client, session)
    prompt(client, session, frame=2, points=[(3 / WIDTH, 3 / HEIGHT)], obj_id=7)
    body = {"session_id": session, "model": "video"}
    error = refusal(client.post("/v1/video/propagate/stream", json=body))
    assert (error.status, error.given) == (409, "frame 0 with object 10000 marked and object 7 not")
    prompt(client, session, frame=0, points=[(3 / WIDTH, 3 / HEIGHT)], obj_id=7)
    prompt(client, session, frame=2)
    results = propagate(client, session)[-1]["results"]
    assert {frame: {row["group_id"] for row in rows["masks"]} for frame, rows in results.items()} == {
        "1": {7, 10000}, "3": {7, 10000}, "4": {7, 10000}
    }  # fmt: skip


def test_the_smallest_boxes_are_marks(client):
    for side in (1, 2, 3):
        box_mark = {"type": "rectangle", "data": [30, 20, 30 + side, 20 + side], "label": 1}
        assert predict(client, uri(picture()), marks=[box_mark]).status_code == 200


def test_an_edited_photo_is_learnt_again(folder):
    annotated(folder, 0)
    with site(folder) as client:
        assert overlap(painted(rings_of(predict(client, uri(picture(3, 1)), "classes"))), box(3)) > 0.85
        Image.fromarray(255 - picture()).save(folder / "photo0.png")
        answer = predict(client, uri(255 - picture(3, 1)), "classes")
        assert overlap(painted(rings_of(answer)), box(3)) > 0.85


def test_a_label_file_of_another_image_s_name_is_refused(folder):
    annotated(folder, 0)
    annotated(folder, 1)
    (folder / "photo1.json").rename(folder / "renamed.json")
    with site(folder) as client:
        error = refusal(predict(client, uri(picture(6, 2)), "classes"))
    assert "renamed.json names an image other than renamed.*" in error.given
