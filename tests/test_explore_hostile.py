"""Requests that a page never sends: damaged zips, options that name files, a stroke that another change interrupts."""

import io
import zipfile

import pytest
from explore_site import box, edit, line, paint, photos, png, site

STROKE = {"item": 0, "class": 1, "points": line(26, 24, 38, 24), "radius": 2}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    with site(folder / "work", photos(folder / "photos")) as opened:
        yield opened


def refused(response, status=422):
    assert response.status_code == status, response.text
    assert "/tmp" not in response.text
    assert "\n" not in response.json()["error"]["message"]
    return response.json()["error"]["message"]


def taken(client, data, name="labels.zip", **query):
    headers = {"content-type": "application/octet-stream"}
    return client.post("/api/import", params={"name": name, **query}, content=data, headers=headers)


def zipped(*files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return data.getvalue()


def test_zips_that_are_damaged_are_the_senders_fault(client):
    paint(client)
    client.post("/api/export", json={"format": "png"})
    whole = client.get("/api/exports/png").content
    assert taken(client, whole).status_code == 200
    middle = whole.index(b"photo0.png") + 20
    for data in (
        whole[-22:],  # the end alone
        b"junk" + whole[-22:],
        whole[:100] + whole[160:],
        whole[:middle] + b"\xff" * 30 + whole[middle + 30 :],
        zipped(("a", "x"), ("a/b.png", "x")),
        zipped(("a" * 300 + ".png", "x")),
        zipped(("a/" * 3000 + "b.png", "x")),
    ):
        assert "a plain zip" in refused(taken(client, data))
    for name in ("..", "a/..", "../..", ".", "/"):
        assert "a file of labels and its name" in refused(taken(client, b"x", name))


@pytest.mark.parametrize("format", ["geotiff(like=/etc/hostname)", "labelme(images=/etc)"])
def test_an_option_names_no_file_of_the_server(client, format):
    paint(client)
    assert "names a file of this machine" in refused(client.post("/api/export", json={"format": format}))
    assert "names a file of this machine" in refused(taken(client, b"{}", "a.json", format=format))


def test_a_host_with_half_a_bracket_is_refused(client):
    for host in ("[", "[::1", "]"):
        assert "127.0.0.1" in refused(client.get("/api/state", headers={"host": host}), 403)


def strokes(client):
    return client.get("/api/items/0/strokes").json()["strokes"]


def test_a_longer_version_that_is_refused_leaves_the_shorter_one(client):
    edit(client, "clear", item=0)
    first = edit(client, "stroke", **STROKE).json()["id"]
    outside = {**STROKE, "points": [[64, 48]], "radius": 0.5}  # the corner: no pixel's centre
    refused(edit(client, "stroke", **outside, extends=first))
    assert len(strokes(client)) == 1
    refused(edit(client, "stroke", **STROKE, extends=first), 409)  # the page sends it by itself then


def test_labels_that_come_while_a_stroke_is_drawn_stay(client):
    paint(client)
    client.post("/api/export", json={"format": "png"})
    exported = client.get("/api/exports/png").content
    before = png(client.get("/api/items/0/labels"))[0]
    edit(client, "clear", item=0)
    first = edit(client, "stroke", **STROKE).json()["id"]
    assert taken(client, exported).status_code == 200  # of another tab
    refused(edit(client, "stroke", **STROKE, extends=first), 409)
    assert (png(client.get("/api/items/0/labels"))[0] == before).all()
    assert (before[box()] == 1).mean() > 0.9


def test_another_word_for_background_is_the_same_class(tmp_path):
    with site(tmp_path / "work", photos(tmp_path / "photos", 1), classes=["Background", "object"]) as client:
        paint(client)
        before = png(client.get("/api/items/0/labels"))[0]
        client.post("/api/export", json={"format": "coco"})
        exported = client.get("/api/exports/coco").content
        edit(client, "clear", item=0)
        assert taken(client, exported).json()["classes"] == ["background", "object"]
        assert [c["name"] for c in client.get("/api/state").json()["classes"]] == ["Background", "object"]
        assert (png(client.get("/api/items/0/labels"))[0] == before).all()
