"""A CVAT server on loopback, as much of its HTTP API as the SDK and the command line use for functions and tasks.

Answers have the fields that cvat_sdk 2.80 requires of them; its own models read them.
"""

import contextlib
import io
import json
import re
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from PIL import Image

WHEN = "2026-11-28T12:00:00.000000Z"
USER = {"url": "http://x/api/users/1", "id": 1, "username": "u", "first_name": "", "last_name": ""}
COUNT = {"url": "http://x/api/labels", "count": 0}
VALIDATION = {"url": "http://x", "count": 0, "completed": 0, "validation": 0}


class Server:
    """Tasks, labels, functions and the requests to an agent.

    Attributes:
        images: of task 1, in order. labels: (name, type) of the task. functions: as created, by id.
        uploads: (method, query, body) of annotations. requests: parameters of annotation requests, waiting.
        results, failures: what an agent sent back, by the number of the request.
    """

    def __init__(self, images, labels, requests=()):
        self.images, self.labels, self.functions = list(images), list(labels), {}
        self.uploads, self.requests, self.results, self.failures = [], list(requests), {}, {}
        self._next = 0

    def task(self):
        size = len(self.images)
        return {
            "id": 1, "url": "http://x/api/tasks/1", "name": "task", "project_id": None, "mode": "annotation",
            "owner": USER, "assignee": None, "bug_tracker": "", "created_date": WHEN, "updated_date": WHEN,
            "overlap": 0, "segment_size": size, "status": "annotation", "data_chunk_size": 2, "data": 1, "size": size,
            "data_compressed_chunk_type": "imageset", "data_original_chunk_type": "imageset", "dimension": "2d",
            "subset": "", "organization": None, "target_storage": None, "source_storage": None, "guide_id": None,
            "labels": COUNT, "jobs": VALIDATION, "issues": COUNT, "data_cloud_storage_id": None,
            "assignee_updated_date": None, "validation_mode": None, "consensus_enabled": False,
        }  # fmt: skip

    def meta(self):
        frames = [
            {"name": f"photos/{i}.png", "width": im.width, "height": im.height, "related_files": 0, "deleted": False}
            for i, im in enumerate(self.images)
        ]
        return {
            "chunk_size": 2, "size": len(frames), "image_quality": 70, "start_frame": 0, "stop_frame": len(frames) - 1,
            "frame_filter": "", "frames": frames, "deleted_frames": [], "included_frames": None, "storage": "local",
            "storage_method": "cache", "server_files": [], "client_files": [], "remote_files": [],
            "chunks_updated_date": WHEN, "cloud_storage_id": None,
        }  # fmt: skip

    def label(self, place):
        name, kind = self.labels[place]
        return {
            "id": 100 + place, "name": name, "color": "#ff0000", "attributes": [], "type": kind, "svg": "",
            "sublabels": [], "task_id": 1, "project_id": None, "parent_id": None, "has_parent": False,
        }  # fmt: skip

    def chunk(self, number):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for place, image in enumerate(self.images[2 * number : 2 * number + 2]):
                archive.writestr(f"{place:06d}.png", png(image))
        return buffer.getvalue()

    def answer(self, method, path, query, body):
        """(status, JSON value or bytes)."""
        if path == "/api/server/about":
            return 200, {"name": "CVAT", "description": "", "version": "2.80.0", "logo_url": "", "subtitle": ""}
        if path == "/api/tasks/1":
            return 200, self.task()
        if path == "/api/labels":
            labels = [self.label(place) for place in range(len(self.labels))]
            return 200, {"count": len(labels), "next": None, "previous": None, "results": labels}
        if path == "/api/tasks/1/data/meta":
            return 200, self.meta()
        if path == "/api/tasks/1/data":
            number = int(query["number"])
            return 200, self.chunk(number) if query["type"] == "chunk" else png(self.images[number])
        if path == "/api/tasks/1/annotations" and method in ("PUT", "PATCH"):
            self.uploads.append((method, query, body))
            return 200, {"version": 1, "tags": [], "shapes": [], "tracks": []}
        if path == "/api/functions" and method == "POST":
            self._next += 1
            self.functions[self._next] = {"id": self._next, "created_date": WHEN, **body}
            return 201, self.functions[self._next]
        if match := re.fullmatch(r"/api/functions/(\d+)", path):
            function = self.functions.get(int(match[1]))
            return (404, {"detail": "Not found."}) if function is None else (200, remote(function))
        return self.queue(path, body)

    def queue(self, path, body):
        if path.endswith("/requests/acquire"):
            slow = body["request_category"] == "batch"
            waiting = [r for r in self.requests if (r["type"] == "annotate_task") == slow]
            if not waiting:
                return 200, {"ar_assignment": None}
            self.requests.remove(waiting[0])
            number = str(len(self.results) + len(self.failures))
            return 200, {"ar_assignment": {"ar_id": number, "ar_params": self.filled(waiting[0])}}
        if match := re.search(r"/requests/(\d+)/(complete|fail|update)$", path):
            if match[2] != "update":
                (self.results if match[2] == "complete" else self.failures)[int(match[1])] = body
            return 200, {}
        return 404, {"detail": f"Not found: {path}"}

    def filled(self, request):
        """A request to go on tracking has the states that the one before returned."""
        if request["type"] == "track":
            request = {**request, "states": self.results[max(self.results)]["states"]}
        return {"task": 1, **request}

    @contextlib.contextmanager
    def running(self):
        """Its address, http://127.0.0.1:PORT."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def remote(function):
    """A function as the server describes it: labels without a type are of any."""
    described = {"min_neg_points": -1, "startswith_box": False, "startswith_box_optional": False, **function}
    for label in described.get("labels_v2", []):
        label.setdefault("type", "any")
        label.setdefault("sublabels", [])
    return described


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def handler(site):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def respond(self):
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, content = site.answer(self.command, url.path.rstrip("/"), query, body)
            plain = isinstance(content, bytes)
            data = content if plain else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/octet-stream" if plain else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_PATCH = respond

    return Handler


def scene(seed=0, left=20):
    """A red box and a green one on blue noise, 80 x 48, RGB."""
    import numpy as np

    values = np.random.default_rng(seed).integers(0, 60, (48, 80, 3), dtype=np.uint8)
    values[:, :, 2] += 120
    values[12:30, left : left + 20] = (220, 30, 20)
    values[34:44, 8:24] = (20, 200, 20)
    return Image.fromarray(values)


def truth(left=20):
    """Its classes: 0, 4 the red box, 9 the green one."""
    import numpy as np

    mask = np.zeros((48, 80), dtype=np.uint8)
    mask[12:30, left : left + 20] = 4
    mask[34:44, 8:24] = 9
    return mask
