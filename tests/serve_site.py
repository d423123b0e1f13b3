"""A server of `dense-ctx serve` in this process, and a stand-in for Label Studio's own HTTP interface."""

import contextlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
from dense_ctx_http.guard import LOOPBACK
from dense_ctx_labels.brush import brush_of_mask, mask_of_brush
from dense_ctx_serve.app import application
from dense_ctx_serve.desk import Desk
from dense_ctx_serve.folder import LabelFolder
from dense_ctx_serve.studio import Studio
from dense_ctx_serve.studio_api import StudioApi
from explore_site import HEIGHT, WIDTH, box, model, picture
from PIL import Image
from starlette.testclient import TestClient

from dense_ctx.config import parse_part

BASE = "http://127.0.0.1:8000"
TOKEN = "f00d" * 10
CONFIG = (
    '<View><Image name="img" value="$photo"/><BrushLabels name="tag" toName="img"><Label value="box" '
    'background="#ff0000"/></BrushLabels><KeyPointLabels name="kp" toName="img" smart="true"><Label value="box"/>'
    "</KeyPointLabels></View>"
)


def encoded(values, kind="PNG"):
    data = io.BytesIO()
    Image.fromarray(values).save(data, kind)
    return data.getvalue()


@contextlib.contextmanager
def site(folder=None, studio=None, head=None, token=None, method="ridge", form="labelme", **options):
    """A client of a server. folder: of label files. studio: the address of a Label Studio. images: their folder.

    options: of `Studio`.
    """
    images = options.pop("images", None)
    source = None if folder is None else LabelFolder(folder, parse_part(form), images or folder)
    feature_model = model() if head is None else head.model
    desk = Desk(feature_model, head, parse_part(method), "500MB", source)
    try:
        projects = None
        if studio is not None:
            options = {"images": images, "unlabelled": None, **options}
            projects = Studio(desk, StudioApi(studio, options.pop("key", TOKEN)), **options)
        app = application(desk, projects, LOOPBACK, token=token)
        with TestClient(app, base_url=BASE) as client:
            client.desk, client.studio = desk, projects
            yield client
    finally:
        desk.close()


class FakeStudio:
    """Projects, tasks and images as Label Studio 1.23 answers for them; what it was asked is in `asked`."""

    def __init__(self, count=4):
        self.configs = {1: CONFIG}
        self.tasks = [{"id": 10 + i, "data": {"photo": f"/data/upload/1/0123abcd-photo{i}.png"}, "annotations": []}
                      for i in range(count)]  # fmt: skip
        self.images = {t["data"]["photo"]: encoded(picture(3 * i, i)) for i, t in enumerate(self.tasks)}
        self.asked, self.statuses = [], {}

    def annotate(self, index, regions=None):
        """An annotation of the box's brush mask."""
        regions = [brush(box(3 * index), "box")] if regions is None else regions
        self.tasks[index]["annotations"] = [{"id": 100 + index, "result": regions}]

    def answer(self, path):
        name, _, query = path.partition("?")
        parts = name.strip("/").split("/")
        if parts[:2] == ["api", "projects"] and int(parts[2]) in self.configs:
            if parts[3:] == ["export"]:
                assert query == "exportType=JSON"
                return json.dumps([task for task in self.tasks if task["annotations"]]).encode()
            return json.dumps({"id": int(parts[2]), "label_config": self.configs[int(parts[2])]}).encode()
        return self.images.get(name)


@contextlib.contextmanager
def fake_studio(count=4):
    """A stand-in, and its address as `url`."""
    state = FakeStudio(count)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.asked.append((self.path, self.headers.get("Authorization")))
            status, content = state.statuses.get(self.path.partition("?")[0], 200), None
            if self.headers.get("Authorization") not in (f"Token {TOKEN}", "Bearer short-lived"):
                status = 401
            elif status == 200 and (content := state.answer(self.path)) is None:
                status = 404
            self.reply(status, content or b"{}")

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.asked.append((self.path, body))
            valid = self.path == "/api/token/refresh" and body == {"refresh": "a.b.c"}
            self.reply(200 if valid else 401, b'{"access": "short-lived"}')

        def reply(self, status, content):
            self.send_response(status)
            if status == 303:
                self.send_header("Location", "http://127.0.0.1:9/elsewhere.png")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def brush(mask, name, **fields):
    height, width = mask.shape
    value = {"format": "rle", "rle": brush_of_mask(mask), "brushlabels": [name]}
    return {"id": name, "type": "brushlabels", "from_name": "tag", "to_name": "img", "original_width": width,
            "original_height": height, "image_rotation": 0, "value": value, **fields}  # fmt: skip


def keypoint(x, y, positive=True, name="box"):
    value = {"x": 100 * x / WIDTH, "y": 100 * y / HEIGHT, "width": 1, "keypointlabels": [name]}
    return {"id": f"{x}-{y}", "type": "keypointlabels", "from_name": "kp", "to_name": "img", "original_width": WIDTH,
            "original_height": HEIGHT, "image_rotation": 0, "is_positive": positive, "value": value}  # fmt: skip


def mask_of(region):
    return mask_of_brush(region["value"]["rle"], (region["original_height"], region["original_width"]))


def overlap(one, other):
    """Intersection over union."""
    return float((one & other).sum() / max((one | other).sum(), 1))


def refusal(response):
    """Status, and the three parts of an error."""
    error = response.json()["error"]
    return SimpleNamespace(status=response.status_code, **error)


def painted(rings, size=(HEIGHT, WIDTH)):
    """The mask of some polygons."""
    from dense_ctx_labels.raster import fill

    mask = np.zeros(size, bool)
    for ring in rings:
        part, x, y = fill((np.array(ring, dtype=float),), size)
        mask[y : y + part.shape[0], x : x + part.shape[1]] |= part
    return mask
