"""The server of `dense-ctx explore`: strokes, maps, other tabs, propagation, labels out and in."""

import io
import json
import threading
import time
import zipfile

import numpy as np
import pytest
from explore_site import HEIGHT, WIDTH, box, edit, line, paint, photos, picture, png, site
from PIL import Image

from dense_ctx.data.video import write_video


@pytest.fixture
def client(tmp_path):
    with site(tmp_path / "work", photos(tmp_path / "photos")) as client:
        yield client


def state(client):
    return client.get("/api/state").json()


def test_the_state_of_a_new_session(client):
    facts = state(client)
    assert [item["name"] for item in facts["items"]] == ["photo0.png", "photo1.png", "photo2.png"]
    assert facts["items"][0] == {"name": "photo0.png", "width": WIDTH, "height": HEIGHT, "status": None, "strokes": 0}
    assert [item["name"] for item in facts["classes"]] == ["background", "object"]
    assert facts["classes"][1]["colour"] == "#e5484d"
    assert (facts["models"], facts["clip"], facts["propagation"]["running"]) == (["rgb"], False, False)


def test_strokes_label_this_image_and_the_others(client):
    empty, _ = png(client.get("/api/items/0/labels"))
    assert (empty == 255).all()
    paint(client)
    for item in range(3):
        labels, image = png(client.get(f"/api/items/{item}/labels"))
        assert labels.shape == (HEIGHT, WIDTH)
        assert ((labels == 1) == box(3 * item)).mean() > 0.97
        assert image.getpalette()[3:6] == [229, 72, 77]
        assert image.info["transparency"][0] == 0, "background is transparent"
        assert image.info["transparency"][1] == 255
    strokes = client.get("/api/items/0/strokes").json()["strokes"]
    assert [(item["class"], len(item["points"]), item["radius"]) for item in strokes] == [(1, 12, 2.0), (0, 12, 2.0)]
    assert state(client)["items"][0]["strokes"] == 2


def test_the_side_is_that_of_the_picture(client):
    paint(client)
    for route in ("labels", "uncertainty", "pca", "similarity?x=30&y=20", "picture"):
        mark = "&" if "?" in route else "?"
        assert png(client.get(f"/api/items/1/{route}{mark}side=32"))[1].size == (32, 24)
        assert png(client.get(f"/api/items/1/{route}"))[1].size == (WIDTH, HEIGHT)
        large = png(client.get(f"/api/items/1/{route}{mark}side=128"))[1].size
        assert large == ((WIDTH, HEIGHT) if route == "picture" else (128, 96)), "scores are enlarged, images are not"


def test_undo_redo_and_clear(client):
    paint(client)
    before, _ = png(client.get("/api/items/1/labels"))
    assert edit(client, "undo").json()["result"] == [0]
    assert (png(client.get("/api/items/1/labels"))[0] == 255).all(), "one class is left"
    assert edit(client, "redo").json()["result"] == [0]
    np.testing.assert_array_equal(png(client.get("/api/items/1/labels"))[0], before)
    edit(client, "clear", item=0)
    assert client.get("/api/items/0/strokes").json()["strokes"] == []


def test_the_eraser_takes_labels_away(client):
    paint(client)
    edit(client, "stroke", item=0, **{"class": None}, points=line(4, 4, 60, 4), radius=4)
    assert (png(client.get("/api/items/1/labels"))[0] == 255).all(), "background is not annotated any more"
    assert client.get("/api/items/0/strokes").json()["strokes"][-1]["class"] is None


def test_an_edit_that_is_sent_again_is_made_once(client):
    body = {"id": "the-same-id", "edit": "stroke", "item": 0, "class": 1, "points": [[30, 20]], "radius": 3}
    first = client.post("/api/edits", json=body).json()
    again = client.post("/api/edits", json=body).json()
    assert first["revision"] == again["revision"]
    assert state(client)["items"][0]["strokes"] == 1
    added = {"id": "another-id", "edit": "add-class", "name": "leaf"}
    assert client.post("/api/edits", json=added).json() == client.post("/api/edits", json=added).json()


def test_a_stroke_that_is_still_drawn_replaces_its_beginning(client):
    first = edit(client, "stroke", item=0, **{"class": 1}, points=line(26, 24, 28, 24), radius=2).json()["id"]
    longer = edit(client, "stroke", item=0, **{"class": 1}, points=line(26, 24, 38, 24), radius=2, extends=first)
    assert longer.status_code == 200
    (stroke,) = client.get("/api/items/0/strokes").json()["strokes"]
    assert stroke["points"][-1] == [38.0, 24.0]
    late = edit(client, "stroke", item=0, **{"class": 1}, points=[[5, 5]], radius=2, extends=first)
    assert late.status_code == 409
    assert len(client.get("/api/items/0/strokes").json()["strokes"]) == 1


def test_classes_are_added_changed_and_removed(client):
    leaf = edit(client, "add-class", name="leaf", colour="#102030").json()["result"]
    assert leaf == 2
    edit(client, "change-class", **{"class": 1}, name="box", colour="#ff0000")
    assert [(c["name"], c["colour"]) for c in state(client)["classes"][1:]] == [("box", "#ff0000"), ("leaf", "#102030")]
    edit(client, "stroke", item=0, **{"class": leaf}, points=[[5, 5]], radius=2)
    edit(client, "remove-class", **{"class": leaf})
    assert [c["name"] for c in state(client)["classes"]] == ["background", "box"]
    assert client.get("/api/items/0/strokes").json()["strokes"] == []


def test_marks_and_the_next_item(client):
    paint(client)
    edit(client, "mark", item=1, status="accepted")
    assert [item["status"] for item in state(client)["items"]] == [None, "accepted", None]
    for item in range(3):
        client.get(f"/api/items/{item}/labels")
    assert client.get("/api/next").json() == {"item": 2}
    edit(client, "mark", item=2, status="rejected")
    done = client.get("/api/next")
    assert done.status_code == 422
    assert "none to annotate next" in done.json()["error"]["message"]
    edit(client, "mark", item=1, status=None)
    assert client.get("/api/next").json() == {"item": 1}


def test_uncertainty_and_summary(client):
    assert client.get("/api/items/1/uncertainty").status_code == 409, "nothing can be predicted yet"
    paint(client)
    values, image = png(client.get("/api/items/1/uncertainty"))
    assert image.info["transparency"][0] == 0
    edge = values[11:13, 23:47].mean()
    assert edge > values[22:26, 30:36].mean(), "least certain at the border of the box"
    facts = client.get("/api/items/1/summary").json()
    assert 0 < facts["uncertainty"] < 1
    assert abs(facts["shares"]["1"] - box().mean()) < 0.05


def test_similarity_follows_the_pixel_and_reaches_other_items(client):
    inside, _ = png(client.get("/api/items/0/similarity?x=30&y=20"))
    outside, _ = png(client.get("/api/items/0/similarity?x=3&y=3"))
    assert inside[20, 30] > 250 > outside[20, 30] + 3
    other, _ = png(client.get("/api/items/2/similarity?x=30&y=20&of=0"))
    mask = box(6)
    assert other[mask].mean() > other[~mask].mean() + 5
    assert client.get("/api/items/0/similarity?x=64&y=3").status_code == 422


def test_another_tab_learns_of_a_stroke(client):
    tick = state(client)["tick"]
    answers = []
    waiting = threading.Thread(
        target=lambda: answers.append(client.get(f"/api/changes?since={tick}&wait=20").json()), daemon=True
    )
    waiting.start()
    time.sleep(0.3)
    assert not answers
    paint(client)
    waiting.join(10)
    assert answers
    assert answers[0]["tick"] > tick
    quiet = client.get(f"/api/changes?since={state(client)['tick']}&wait=0.05").json()
    assert quiet["tick"] == state(client)["tick"]


def test_two_models_stand_side_by_side(tmp_path):
    with site(tmp_path / "work", photos(tmp_path / "photos"), names=("one", "two")) as client:
        assert state(client)["models"] == ["one", "two"]
        paint(client)
        one, two = (png(client.get(f"/api/items/1/labels?model={number}"))[0] for number in (0, 1))
        np.testing.assert_array_equal(one, two)  # the same features, and the same strokes
        assert client.get("/api/items/1/labels?model=2").status_code == 404
        edit(client, "undo")
        for number in (0, 1):
            assert (png(client.get(f"/api/items/1/labels?model={number}"))[0] == 255).all()
    with site(tmp_path / "work", tmp_path / "photos", names=("one", "two")) as client:
        edit(client, "redo")
        assert len(client.get("/api/items/0/strokes").json()["strokes"]) == 2, "what was undone can be redone later"
        for number in (0, 1):
            np.testing.assert_array_equal(png(client.get(f"/api/items/1/labels?model={number}"))[0], one)


def test_a_clip_is_propagated_and_corrected(tmp_path):
    clip = write_video(tmp_path / "clip.mp4", [picture(2 * index, 0) for index in range(6)], fps=10)
    with site(tmp_path / "work", clip) as client:
        facts = state(client)
        assert facts["clip"]
        assert len(facts["items"]) == 6
        assert client.post("/api/propagate", json={}).status_code == 409, "nothing is annotated"
        paint(client)
        assert client.post("/api/propagate", json={"start": 0, "stop": None}).status_code == 200
        assert client.post("/api/propagate", json={"start": 3, "stop": 99}).status_code == 422
        tick, run = 0, {"running": True}
        for _ in range(100):
            answer = client.get(f"/api/changes?since={tick}&wait=10").json()
            tick, run = answer["tick"], answer["propagation"]
            if not run["running"]:
                break
        assert run["error"] == ""
        assert run["done"] >= 5
        labels, _ = png(client.get("/api/items/5/labels"))
        assert ((labels == 1) == box(10)).mean() > 0.9
        assert client.delete("/api/propagate").json()["propagation"]["running"] is False


def test_images_are_not_propagated(client):
    paint(client)
    response = client.post("/api/propagate", json={})
    assert response.status_code == 409
    assert response.json()["error"]["expected"] == "the frames of a clip"


def test_labels_go_out_and_come_back(tmp_path):
    folder = photos(tmp_path / "photos")
    with site(tmp_path / "work", folder) as client:
        paint(client)
        edit(client, "mark", item=2, status="rejected")
        formats = {row["name"]: row for row in client.get("/api/formats").json()["formats"]}
        assert formats["png"]["writes"]
        assert not formats["auto"]["writes"]
        packs = {}
        for name in [name for name, row in formats.items() if row["reads"] and row["writes"]]:
            facts = client.post("/api/export", json={"format": name}).json()
            assert facts["files"] >= 1
            packs[name] = client.get(f"/api/exports/{name}").content
        names = zipfile.ZipFile(io.BytesIO(packs["png"])).namelist()
        assert "photo0.png" in names
        assert "photo2.png" not in names, "a rejected item"
        labels = np.asarray(Image.open(io.BytesIO(zipfile.ZipFile(io.BytesIO(packs["png"])).read("photo1.png"))))
        np.testing.assert_array_equal(labels, png(client.get("/api/items/1/labels"))[0])
    assert len(packs) >= 7
    for name, pack in packs.items():
        with site(tmp_path / f"again-{name}", folder) as client:
            headers = {"content-type": "application/octet-stream"}
            path = f"/api/import?name={name}.zip"
            if name == "label-studio":  # its masks do not say what the rest is
                error = client.post(path, content=pack, headers=headers).json()["error"]
                assert "unlabelled=background" in error["given"]
                assert "/tmp" not in error["given"]
                assert client.post(f"{path}&unlabelled=0", content=pack, headers=headers).status_code == 422
                path += "&unlabelled=background"
            answer = client.post(path, content=pack, headers=headers)
            assert answer.status_code == 200, (name, answer.text)
            assert answer.json()["items"] == [0, 1]
            back, _ = png(client.get("/api/items/1/labels"))
            np.testing.assert_array_equal(back, labels)
            assert [c["name"] for c in state(client)["classes"]] == ["background", "object"]
            edit(client, "undo")


def test_an_export_says_which_format_and_which_model(client):
    paint(client)
    unknown = client.post("/api/export", json={"format": "tiff"})
    assert unknown.status_code == 404
    assert "png" in unknown.json()["error"]["expected"]
    assert client.post("/api/export", json={"format": "../png"}).status_code == 422
    assert client.post("/api/export", json={"format": "png", "model": 3}).status_code == 404
    assert client.get("/api/exports/png").status_code == 404, "nothing was exported"
    facts = client.post("/api/export", json={"format": "coco(shape=polygon)"}).json()
    assert facts["name"] == "coco"
    content = zipfile.ZipFile(io.BytesIO(client.get("/api/exports/coco").content)).read("labels.json")
    assert isinstance(json.loads(content)["annotations"][0]["segmentation"], list)


def test_labels_of_other_images_or_sizes_are_refused(client, tmp_path):
    headers = {"content-type": "application/octet-stream"}

    def take(content, name):
        return client.post(f"/api/import?name={name}", content=content, headers=headers)

    def file(size, name):
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            inner = io.BytesIO()
            Image.fromarray(np.ones(size, np.uint8)).save(inner, "PNG")
            archive.writestr(name, inner.getvalue())
            archive.writestr("classes.txt", "background\nbox\n")
        return data.getvalue()

    assert "photo0.png" in take(file((HEIGHT, WIDTH), "other.png"), "a.zip").json()["error"]["expected"]
    small = take(file((10, 10), "photo0.png"), "a.zip").json()["error"]
    assert (small["given"], small["expected"]) == ("labels of photo0.png, 10 x 10", "64 x 48, as the image")
    broken = take(b"nothing", "a.json")
    assert broken.status_code == 422
    assert "a.json" in broken.json()["error"]["given"]
    assert take(b"PK\x03\x04broken", "a.zip").status_code == 422
    assert take(file((HEIGHT, WIDTH), "../../../photo0.png"), "a.zip").status_code in (200, 422)
    assert not list(tmp_path.parent.glob("photo0.png"))
    assert client.post("/api/import?name=a.zip", content=b"x").status_code == 415
    assert state(client)["items"][1]["strokes"] == 0


def test_a_format_without_sizes_takes_those_of_the_images(tmp_path):
    folder = photos(tmp_path / "photos" / "deep", 2)
    Image.fromarray(picture()[:40]).save(folder / "short.png")
    with site(tmp_path / "work", folder.parent) as client:
        paint(client)
        assert client.post("/api/export", json={"format": "yolo"}).json()["files"] >= 3
        pack = client.get("/api/exports/yolo").content
        labels, _ = png(client.get("/api/items/2/labels"))
    with site(tmp_path / "again", folder.parent) as client:
        headers = {"content-type": "application/octet-stream"}
        answer = client.post("/api/import?name=yolo.zip&format=yolo", content=pack, headers=headers)
        assert answer.json()["items"] == [0, 1, 2], answer.text
        np.testing.assert_array_equal(png(client.get("/api/items/2/labels"))[0], labels)


def test_the_memory_of_features_is_bounded(tmp_path):
    with site(tmp_path / "work", photos(tmp_path / "photos"), names=("one", "two"), max_memory="64MB") as client:
        one, two = (session._store.budget for session in client.desk.workspace.sessions)
        assert one == two < 64 * 10**6
