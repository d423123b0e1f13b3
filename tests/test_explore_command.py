"""`dense-ctx explore` as a process: its words, its lock, a kill in the middle of strokes."""

import contextlib
import json
import os
import re
import signal
import threading
import time
import webbrowser

import httpx2
import pytest
from explore_process import MODEL, Server
from explore_site import edit, line, paint, photos, site

from dense_ctx import cli
from dense_ctx.errors import FileError


def stroke(number, x=5.0):
    return {"id": f"stroke-{number:06d}", "edit": "stroke", "item": 0, "class": number % 2, "points": [[x, 5], [x, 20]],
            "radius": 1}  # fmt: skip


@pytest.mark.faults
def test_a_kill_loses_no_stroke_that_was_answered(tmp_path):
    """Strokes are sent as a page sends them; whatever the kill cuts off is sent again to the next server."""
    photos(tmp_path / "photos")
    with Server(tmp_path / "work", tmp_path / "photos") as server:
        answered, stop = [], threading.Event()

        def send():
            number = 0
            while not stop.is_set():
                try:
                    status, _ = server.ask("/api/edits", stroke(number, 5 + number % 50))
                except OSError:
                    return
                assert status == 200
                answered.append(number)
                number += 1

        sender = threading.Thread(target=send)
        sender.start()
        end = time.monotonic() + 30
        while len(answered) < 12 and time.monotonic() < end:
            time.sleep(0.01)
        assert server.end(signal.SIGKILL)[0] == -signal.SIGKILL
        stop.set()
        sender.join()
    assert len(answered) >= 12
    with Server(tmp_path / "work", tmp_path / "photos") as server:
        _, facts = server.ask("/api/items/0/strokes")
        assert len(facts["strokes"]) in (len(answered), len(answered) + 1), (
            "the last may have been made and not answered"
        )
        for number in (answered[-1], len(answered), len(answered)):  # the page does not know which ones arrived
            assert server.ask("/api/edits", stroke(number, 5 + number % 50))[0] == 200
        _, facts = server.ask("/api/items/0/strokes")
        assert [item["points"][0][0] for item in facts["strokes"]] == [5 + n % 50 for n in range(len(answered) + 1)]
        status, errors = server.end(signal.SIGINT)
        assert status == 130
        assert "all strokes are in" in errors
        assert "Traceback" not in errors


def test_a_torn_receipt_is_not_counted(tmp_path):
    """Announced, and killed before it was made: sent again, it is made."""
    source = photos(tmp_path / "photos")
    with site(tmp_path / "work", source) as client:
        paint(client)
        revision = client.get("/api/state").json()["revision"]
    with (tmp_path / "work/receipts.jsonl").open("a") as file:
        file.write(json.dumps(["stroke-000001", revision + 1]) + "\n" + '["stroke-0000')
    with site(tmp_path / "work", source) as client:
        assert client.post("/api/edits", json=stroke(1)).json()["revision"] == revision + 1
        assert client.post("/api/edits", json=stroke(1)).json()["revision"] == revision + 1
        assert len(client.get("/api/items/0/strokes").json()["strokes"]) == 3
    with site(tmp_path / "work", source) as client:
        assert client.post("/api/edits", json=stroke(1)).json()["revision"] == revision + 1


def test_a_kill_while_the_session_was_made(tmp_path):
    source = photos(tmp_path / "photos")
    (tmp_path / "work/session/model").mkdir(parents=True)
    with pytest.raises(FileError, match="exists and holds no session"), site(tmp_path / "work", source):
        pass
    assert (tmp_path / "work/session/model").exists()  # not ours: nothing of it is removed
    (tmp_path / "work/session/.session-begun").touch()  # as a first save leaves it that was killed
    with site(tmp_path / "work", source) as client:
        paint(client)
    assert not (tmp_path / "work/session/.session-begun").exists()


def test_one_server_a_folder(tmp_path, capsys):
    source = photos(tmp_path / "photos", 1)
    with site(tmp_path / "work", source):
        assert (
            cli.main(["explore", str(source), "--model", MODEL, "--save", str(tmp_path / "work"), "--port", "0"]) == 2
        )
    assert "is in use by process" in capsys.readouterr().err


@pytest.fixture
def visit(monkeypatch):
    """Runs the command in this process; `--open` brings a visitor in place of a browser, who ends it when he leaves."""

    def run(visitor, *words):
        def come(address):
            def go():
                base, _, query = address.partition("/?token=")
                with contextlib.closing(httpx2.Client(base_url=base.replace("0.0.0.0", "127.0.0.1"))) as client:
                    try:
                        answers.append(visitor(client, query))
                    except BaseException as error:
                        answers.append(error)
                os.kill(os.getpid(), signal.SIGINT)

            threading.Thread(target=go).start()

        answers = []
        monkeypatch.setattr(webbrowser, "open", come)
        assert cli.main(["explore", *map(str, words), "--port", "0", "--open"]) == 130
        if isinstance(answers[0], BaseException):
            raise answers[0]
        return answers[0]

    return run


def test_a_host_that_others_reach_has_a_token(tmp_path, visit, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "127.0.0.1")

    def visitor(client, token):
        assert re.fullmatch(r"[\w-]{20,}", token)
        without = client.get("/api/state")
        head = {"authorization": f"Bearer {token}"}
        by_address = client.get("/api/state", headers={**head, "host": "192.168.0.7:8765"})
        by_name = client.get("/api/state", headers={**head, "host": "evil.example"})
        return without.status_code, by_address.status_code, by_name.status_code

    source = photos(tmp_path / "photos", 1)
    words = [source, "--model", MODEL, "--save", tmp_path / "work", "--host", "0.0.0.0"]
    assert visit(visitor, *words) == (401, 200, 403)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "70000"], "--port 70000 is not a port"),
        (["--host", "no.such.host.example"], "--host no.such.host.example is no address of this machine"),
        (["--token", "a b"], "--token is at least 8 letters and digits"),
        (["--model", MODEL], "expected one model, or two that differ"),
        (["--method", "nothing"], "nothing"),
        (["--max-memory", "lots"], "lots"),
        (["--classes", *map(str, range(300))], "--classes has 300 names; a session has at most 254 classes"),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path, capsys, words, message):
    source = photos(tmp_path / "photos", 1)
    base = ["explore", str(source), "--model", MODEL, "--save", str(tmp_path / "work"), "--port", "0"]
    assert cli.main([*base, *words]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors


def test_what_cannot_be_shown(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    source = photos(tmp_path / "photos", 2)
    for paths, message in (
        (["empty"], "no image"),
        (["nothing"], "nothing"),
        (["clip.mp4", "photos/photo0.png"], "is a clip, among 2 files"),
        (["clip.mp4"], "clip.mp4"),
    ):
        places = [str(tmp_path / path) for path in paths]
        assert cli.main(["explore", *places, "--model", MODEL, "--save", str(tmp_path / "work")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "work/session").exists()
    with site(tmp_path / "work", source) as client:
        paint(client)
    other = photos(tmp_path / "others", 2)
    base = ["explore", "--save", str(tmp_path / "work"), "--port", "0"]
    assert cli.main([*base, str(other), "--model", MODEL]) == 2
    assert "has the strokes of other images" in capsys.readouterr().err
    assert cli.main([*base, str(source), "--model", "rgb-xy+dpt(dim=8)"]) == 2
    assert "a session of another model" in capsys.readouterr().err
    assert cli.main([*base, str(source), "--model", MODEL, "--classes", "object", "b"]) == 2
    assert "--classes has 'b', and the session in" in capsys.readouterr().err
    assert cli.main([*base, str(source), "--model", MODEL, "--method", "knn"]) == 2
    assert "has ridge: leave it out" in capsys.readouterr().err
    with site(tmp_path / "work", source) as client:
        assert client.get("/api/state").json()["items"][0]["strokes"] == 2, "nothing is lost by a refusal"


def test_options_reach_the_session(tmp_path, visit):
    source = photos(tmp_path / "photos", 2)

    def facts(client, token):
        return client.get("/api/state", headers={"authorization": f"Bearer {token}"} if token else {}).json()

    base = ["--model", MODEL, "--save", tmp_path / "work"]
    options = ["--classes", "sky", "tree", "--method", "knn(k=3)", "--token", "letmein123", "--max-memory", "64MB"]
    state = visit(facts, source, *base, *options)
    assert [item["name"] for item in state["classes"]] == ["sky", "tree"]
    assert [item["colour"] for item in state["classes"]] == ["#e5484d", "#3e8bff"]
    assert (state["clip"], state["models"]) == (False, [MODEL])
    assert json.loads((tmp_path / "work/session/session.json").read_text())["method"] == "knn(k=3)"
    assert visit(facts, source, *base, *options)["classes"] == state["classes"], "the same command again"
    assert visit(facts, source, "--frames", "--model", MODEL, "--save", tmp_path / "frames")["clip"]
    several = sorted(source.iterdir())
    two = ["--model", "rgb-xy+dpt(dim=8)", "--device", "cpu"]
    state = visit(facts, *several, *two, "--model", MODEL, "--save", tmp_path / "several")
    assert [item["name"] for item in state["items"]] == ["photo0.png", "photo1.png"]
    assert state["models"] == ["rgb-xy+dpt(dim=8)", MODEL]


def test_a_stroke_of_any_thread_while_maps_are_made(tmp_path):
    """Thumbnails and maps of several requests at once, and edits among them."""
    with site(tmp_path / "work", photos(tmp_path / "photos")) as client:
        paint(client)
        faults = []

        def look(item):
            for _ in range(6):
                for route in ("labels?side=64", "uncertainty?side=300", "pca?side=32", "summary"):
                    response = client.get(f"/api/items/{item}/{route}")
                    if response.status_code != 200:
                        faults.append(response.text)

        threads = [threading.Thread(target=look, args=(item,)) for item in range(3)]
        for thread in threads:
            thread.start()
        for number in range(12):
            points = line(2, 40 + number / 4, 60, 40)
            assert edit(client, "stroke", item=1, **{"class": 0}, points=points, radius=1).status_code == 200
        for thread in threads:
            thread.join()
        assert faults == []
        assert client.get("/api/state").json()["items"][1]["strokes"] == 12


def test_its_own_folder_among_the_photographs_is_left_out(tmp_path):
    photos(tmp_path, 2)
    with site(tmp_path / "work", tmp_path) as client:
        paint(client)
        assert client.post("/api/export", json={"format": "png"}).status_code == 200
    assert list((tmp_path / "work").rglob("*.png"))
    with site(tmp_path / "work", tmp_path) as client:
        assert len(client.get("/api/state").json()["items"]) == 2
