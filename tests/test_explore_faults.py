"""What `dense-ctx explore` refuses: strangers, other origins, bodies too large, edits that make no sense; in JSON."""

import errno
import os

import pytest
from dense_ctx_explore import edits
from dense_ctx_http import guard
from explore_site import BASE, edit, paint, photos, site

STROKE = {"item": 0, "class": 1, "points": [[5, 5], [9, 9]], "radius": 2}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explore")
    with site(folder / "work", photos(folder / "photos")) as client:
        yield client


def refused(response, status):
    """The three parts of an error, which nothing has changed."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"type", "message", "given", "expected", "next"}
    assert all(isinstance(text, str) and text for text in error.values())
    assert "\n" not in error["message"]
    return error


@pytest.mark.parametrize(
    ("change", "status", "given", "expected"),
    [
        ({"points": [[-1, 5]]}, 422, "the point [-1, 5]", "x from 0 to 64 and y from 0 to 48"),
        ({"points": [[5, 49]]}, 422, "the point [5, 49]", "x from 0 to 64 and y from 0 to 48"),
        ({"points": [[1e9, 1e9]]}, 422, "the point [1000000000.0", "x from 0 to 64"),
        ({"points": []}, 422, "points: 0", "1 to 10000 points"),
        ({"points": "all"}, 422, "points: str", "1 to 10000 points"),
        ({"points": [[1, 2, 3]]}, 422, "the point [1, 2, 3]", "[x, y]"),
        ({"points": [[1, None]]}, 422, "the point [1, None]", "two finite numbers"),
        ({"points": [[1, True]]}, 422, "the point [1, True]", "two finite numbers"),
        ({"points": [[1, 2]] * 10_001}, 422, "points: 10001", "1 to 10000 points"),
        ({"class": 7}, 404, "class 7", "the id of a class (0, 1) or null to erase"),
        ({"class": True}, 404, "class True", "the id of a class"),
        ({"item": 3}, 404, "item 3", "0 to 2"),
        ({"item": -1}, 404, "item -1", "0 to 2"),
        ({"item": "photo0.png"}, 404, "item 'photo0.png'", "0 to 2"),
        ({"item": "../../etc/passwd"}, 404, "item '../../etc/passwd'", "0 to 2"),
        ({"radius": 0}, 422, "radius=0", "0.5 to 64 pixels"),
        ({"radius": "big"}, 422, "radius='big'", "0.5 to 64 pixels"),
        ({"radius": 65}, 422, "radius=65", "0.5 to 64 pixels"),
        ({"radius": 10**400}, 422, "radius=1000", "0.5 to 64 pixels"),
        ({"points": [[10**400, 1]]}, 422, "the point [1000", "x from 0 to 64"),
        ({"edit": []}, 422, "edit=[]", "stroke, clear, undo"),
        ({"colour": "#fff"}, 422, "the field 'colour'", "of stroke"),
        ({"id": "short"}, 422, "id='short'", "8 to 64 letters"),
        ({"id": None}, 422, "id=None", "8 to 64 letters"),
        ({"edit": "paint"}, 422, "edit='paint'", "stroke, clear, undo"),
        ({"extends": 5}, 422, "extends=5", "the id of an earlier stroke"),
        ({"extends": "no-such-stroke"}, 409, "extends=no-such-stroke", "the last edit, a stroke"),
    ],
)
def test_a_stroke_that_makes_no_sense(client, change, status, given, expected):
    before = client.get("/api/state").json()["revision"]
    body = {"id": "a-wrong-stroke", "edit": "stroke", **STROKE, **change}
    error = refused(client.post("/api/edits", json=body), status)
    assert error["given"].startswith(given)
    assert expected in error["expected"]
    assert client.get("/api/state").json()["revision"] == before


@pytest.mark.parametrize("field", edits.FIELDS["stroke"][:4])
def test_a_missing_field_is_named(client, field):
    body = {key: value for key, value in STROKE.items() if key != field}
    assert refused(edit(client, "stroke", **body), 422)["given"] == f"stroke without {field}"


@pytest.mark.parametrize(
    ("kind", "fields", "status", "given"),
    [
        ("add-class", {"name": ""}, 422, "name=''"),
        ("add-class", {"name": "x" * 81}, 422, "name='xxx"),
        ("add-class", {"name": "a\nb"}, 422, "name='a"),
        ("add-class", {"name": "object"}, 409, "a second class 'object'"),
        ("add-class", {"name": "leaf", "colour": "red"}, 422, "colour='red'"),
        ("change-class", {"class": 9, "name": "leaf"}, 404, "class 9"),
        ("change-class", {"class": 0, "name": "object"}, 409, "a second class 'object'"),
        ("remove-class", {"class": None}, 404, "class None"),
        ("mark", {"item": 0, "status": "good"}, 422, "status='good'"),
        ("clear", {"item": 4}, 404, "item 4"),
    ],
)
def test_other_edits_that_make_no_sense(client, kind, fields, status, given):
    assert refused(edit(client, kind, **fields), status)["given"].startswith(given)


def test_254_classes_and_no_more(tmp_path):
    with site(tmp_path / "work", photos(tmp_path / "photos", 1)) as client:
        for number in range(252):
            assert edit(client, "add-class", name=f"class {number}").status_code == 200
        error = refused(edit(client, "add-class", name="one more"), 422)
        assert (error["given"], error["expected"]) == ("class number 255", "at most 254 classes")
        assert len(client.get("/api/state").json()["classes"]) == 254


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[1, 2]", "application/json", 422),
        (b'{"id": NaN}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"id=1", "application/x-www-form-urlencoded", 415),
        (b"", "application/json", 422),
    ],
)
def test_a_body_that_is_no_edit(client, content, kind, status):
    refused(client.post("/api/edits", content=content, headers={"content-type": kind}), status)


def test_a_body_that_is_too_large(client):
    content = b" " * (guard.MAX_BODY + 1)
    headers = {"content-type": "application/json"}
    error = refused(client.post("/api/edits", content=content, headers=headers), 413)
    assert error["expected"] == "at most 1,048,576"

    def parts():  # without a length
        for _ in range(20):
            yield b" " * (1 << 16)

    refused(client.post("/api/edits", content=parts(), headers=headers), 413)


@pytest.mark.parametrize(
    ("path", "status", "given"),
    [
        ("/api/items/9/labels", 404, "item 9"),
        ("/api/items/9/picture", 404, "item 9"),
        ("/api/items/9/strokes", 404, "item 9"),
        ("/api/items/9/summary", 404, "item 9"),
        ("/api/items/0/labels?side=5", 422, "side='5'"),
        ("/api/items/0/labels?side=99999", 422, "side='99999'"),
        ("/api/items/0/labels?side=nan", 422, "side='nan'"),
        ("/api/items/0/labels?side=20.5", 422, "side=20.5"),
        ("/api/items/0/labels?model=1", 404, "model 1"),
        ("/api/items/0/labels?model=-1", 422, "model='-1'"),
        ("/api/items/0/similarity?x=3", 422, "y=None"),
        ("/api/items/0/similarity?x=3&y=3&of=5", 404, "item 5"),
        ("/api/changes", 422, "since=None"),
        ("/api/changes?since=0&wait=99", 422, "wait='99'"),
        ("/api/items/zero/labels", 404, "GET /api/items/zero/labels"),
        ("/api/nothing", 404, "GET /api/nothing"),
        ("/page/../server.py", 404, "GET /server.py"),
        ("/page/..%2f..%2fserver.py", 404, "GET /page/../../server.py"),
        ("/page/command.py", 404, "/page/command.py"),
        ("/etc/passwd", 404, "GET /etc/passwd"),
        ("/api/exports/..%2f..%2f..", 404, "GET /api/exports"),
        ("/api/exports/session", 404, "the export 'session'"),
    ],
)
def test_what_is_not_there(client, path, status, given):
    assert refused(client.get(path), status)["given"].startswith(given)


def test_another_method(client):
    assert refused(client.put("/api/edits", json={}), 405)["given"] == "PUT /api/edits"


# ---------------------------------------------------------------------- who is answered


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "192.168.0.7", "", "[::2]"]
)
def test_a_name_that_dns_points_here(client, host):
    assert refused(client.get("/api/state", headers={"host": host}), 403)["given"] == f"Host: {host}"


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:9000", "[::1]:8765", "LOCALHOST"])
def test_our_own_names(client, host):
    assert client.get("/api/state", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:3000", "https://127.0.0.1:8765", "null"])
def test_another_site(client, origin):
    body = {"id": "from-another-site", "edit": "undo"}
    assert refused(client.post("/api/edits", json=body, headers={"origin": origin}), 403)["given"].endswith(origin)


def test_the_page_itself(client):
    assert client.post("/api/export", json={"format": "x"}, headers={"origin": BASE}).status_code == 404
    for site_ in ("cross-site", "same-site"):
        refused(client.get("/api/items/0/picture", headers={"sec-fetch-site": site_}), 403)
        assert client.get("/", headers={"sec-fetch-site": site_}).status_code == 200, "a link to it"
    assert client.get("/api/state", headers={"sec-fetch-site": "same-origin"}).status_code == 200


def test_headers_of_every_answer(client):
    for path in ("/", "/api/state", "/page/main.js", "/api/nothing", "/api/items/0/picture"):
        headers = client.get(path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
    assert client.get("/api/state").headers["cache-control"] == "no-store"


def test_a_token_is_asked_for(tmp_path):
    token = "letmein123"
    with site(tmp_path / "work", photos(tmp_path / "photos", 1), token=token) as client:
        for path in ("/", "/page/main.js", "/api/state", "/api/items/0/picture", "/?token=wrong"):
            assert refused(client.get(path, follow_redirects=False), 401)["given"] == "no token"
        assert (
            refused(client.get("/api/state", headers={"authorization": "Bearer wrong"}), 401)["given"]
            == "another token"
        )
        assert client.get("/api/state", headers={"authorization": f"Bearer {token}"}).status_code == 200
        login = client.get(f"/?token={token}", follow_redirects=False)
        assert (login.status_code, login.headers["location"]) == (303, "/")
        assert login.headers["set-cookie"].startswith(f"dense_ctx_token_8765={token};"), "browsers know no ports"
        assert "HttpOnly" in login.headers["set-cookie"]
        assert "SameSite=Strict" in login.headers["set-cookie"]
        assert client.get("/api/state").status_code == 200, "by the cookie"


# ---------------------------------------------------------------------- a disk that is full


def test_a_full_disk_loses_no_stroke(tmp_path, monkeypatch):
    full = []
    write = os.write

    def refuse(handle, data):
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data)

    monkeypatch.setattr(os, "write", refuse)
    with site(tmp_path / "work", photos(tmp_path / "photos")) as client:
        paint(client)
        before = client.get("/api/state").json()
        full.append(True)
        body = {"id": "on-a-full-disk", "edit": "stroke", **STROKE}
        assert "No space left" in refused(client.post("/api/edits", json=body), 507)["message"]
        full.clear()
        answer = client.post("/api/edits", json=body)
        assert answer.status_code == 200
        assert answer.json()["revision"] > before["revision"]
        assert client.post("/api/edits", json=body).json()["revision"] == answer.json()["revision"]
        assert client.get("/api/state").json()["items"][0]["strokes"] == 3
    with site(tmp_path / "work", tmp_path / "photos") as client:
        assert client.get("/api/state").json()["items"][0]["strokes"] == 3


def test_a_disk_that_fills_behind_the_receipt(tmp_path, monkeypatch):
    """The session has the stroke in memory alone: it is not answered before the disk has it."""
    with site(tmp_path / "work", photos(tmp_path / "photos")) as client:
        workspace, left = client.desk.workspace, [True]
        append = workspace.session._folder.append

        def refuse(event):
            if left:
                from dense_ctx.errors import FileError

                raise FileError("Cannot save: No space left on device")
            append(event)

        monkeypatch.setattr(workspace.session._folder, "append", refuse)
        body = {"id": "on-a-full-disk", "edit": "stroke", **STROKE}
        refused(client.post("/api/edits", json=body), 507)
        left.clear()
        assert client.post("/api/edits", json=body).status_code == 200
        assert client.get("/api/state").json()["items"][0]["strokes"] == 1
    with site(tmp_path / "work", tmp_path / "photos") as client:
        assert client.get("/api/state").json()["items"][0]["strokes"] == 1
