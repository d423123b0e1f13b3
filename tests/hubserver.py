"""A small Hub on loopback: what huggingface_hub's client asks for when it creates, uploads, lists and downloads."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_reader_and_writer"


class Hub:
    """Repositories: name -> commits, each a dict of files; branches point at commits.

    trouble: a random.Random that decides about each request; half of them are dropped, cut in the middle, or answered
    503. None: none is. `failed` counts them by kind.
    """

    def __init__(self):
        self.trouble = None
        self.failed = {"dropped": 0, "cut": 0, "busy": 0}
        self.lock = threading.Lock()
        self.repos = {}
        self.gated = set()
        self.requests = []
        self.cards = []

    def create(self, name):
        self.repos.setdefault(name, {"commits": {}, "branches": {"main": self._store(name, {}, empty=True)}})

    def _store(self, name, files, empty=False):
        listing = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in files.items())
        sha = hashlib.sha1(json.dumps([name, listing, empty]).encode()).hexdigest()
        self._pending = (sha, files)
        return sha

    def commit(self, name, branch, changes):
        repo = self.repos[name]
        files = {**self.files(name, branch), **changes}
        sha = self._store(name, files)
        repo["commits"][sha] = files
        repo["branches"][branch] = sha
        return sha

    def files(self, name, revision):
        repo = self.repos[name]
        return repo["commits"].get(repo["branches"].get(revision, revision), {})

    def resolve(self, name, revision):
        repo = self.repos[name]
        sha = repo["branches"].get(revision, revision)
        return sha if sha in repo["commits"] or sha in repo["branches"].values() else None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fault = None

    def log_message(self, *_):
        pass

    def _fault(self):
        """What happens to this request: None, or a kind of failure."""
        hub = self.server.hub
        with hub.lock:
            if hub.trouble is None or hub.trouble.random() >= 0.5:
                return None
            kind = hub.trouble.choice(sorted(hub.failed))
            hub.failed[kind] += 1
            return kind

    def _drop(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _reply(self, status, body=b"", **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if self.fault == "busy":
            status, body, headers = 503, b"busy", {}
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self.fault == "cut" else body)
        if self.fault == "cut":
            self.wfile.flush()
            self._drop()

    def _missing(self, code, status=404):
        self._reply(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _handle(self):
        hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        signed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        parts = path.strip("/").split("/")
        body = self._body()
        self.fault = self._fault()
        if self.fault == "dropped":
            return self._drop()
        if path == "/api/repos/create":
            if not signed:
                return self._reply(401, {"error": "Invalid username or password."})
            asked = json.loads(body)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            hub.create(name)
            return self._reply(200, {"url": f"http://{self.headers['Host']}/{name}", "id": name, "name": name})
        if path == "/api/validate-yaml":  # the front matter of the card
            self.server.hub.cards.append(json.loads(body)["content"])
            return self._reply(200, {"errors": [], "warnings": []})
        if path == "/api/whoami-v2":
            return self._reply(200 if signed else 401, {"name": "me", "type": "user", "orgs": []})
        if parts[0] == "api" and parts[1] == "models":
            return self._api("/".join(parts[2:4]), parts[4:], signed, body)
        if len(parts) > 4 and parts[2] == "resolve":
            return self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), signed)
        return self._missing("EntryNotFound")

    def _refused(self, name, signed):
        hub = self.server.hub
        if name not in hub.repos:
            self._missing("RepoNotFound", 404 if signed else 401)
            return True
        if name in hub.gated:
            self._missing("GatedRepo", 403)
            return True
        return False

    def _api(self, name, rest, signed, body):
        hub = self.server.hub
        if self._refused(name, signed):
            return None
        action, revision = [*rest, "", ""][:2]
        if action == "preupload":
            files = [
                {"path": item["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for item in json.loads(body)["files"]
            ]
            return self._reply(200, {"files": files})
        if action == "commit":
            if not signed:
                return self._reply(401, {"error": "no"})
            changes = {}
            for line in body.decode().splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    changes[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            sha = hub.commit(name, revision or "main", changes)
            url = f"http://{self.headers['Host']}/{name}/commit/{sha}"
            return self._reply(200, {"success": True, "commitUrl": url, "commitOid": sha, "hookOutput": ""})
        below = ""
        if action == "tree":
            revision, below = rest[1], "".join(f"{part}/" for part in rest[2:])
        else:
            revision = "/".join(rest[1:]) or "main" if action == "revision" else "main"
        sha = hub.resolve(name, revision)
        if sha is None:
            return self._missing("RevisionNotFound")
        files = hub.files(name, sha)
        if action == "tree":
            inside = {path: data for path, data in files.items() if path.startswith(below)}
            if not inside:
                return self._missing("EntryNotFound")
            return self._reply(
                200, [{"type": "file", "path": p, "size": len(d), "oid": _etag(d)} for p, d in inside.items()]
            )
        siblings = [{"rfilename": path, "size": len(data), "blobId": _etag(data)} for path, data in files.items()]
        return self._reply(
            200, {"id": name, "modelId": name, "sha": sha, "siblings": siblings, "tags": [], "private": False}
        )

    def _file(self, name, revision, path, signed):
        hub = self.server.hub
        if self._refused(name, signed):
            return None
        sha = hub.resolve(name, revision)
        if sha is None:
            return self._missing("RevisionNotFound")
        data = hub.files(name, sha).get(path)
        if data is None:
            return self._missing("EntryNotFound")
        first = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
        if self.command == "GET" and int(first or 0):  # a download that goes on
            span = f"bytes {first}-{len(data) - 1}/{len(data)}"
            return self._reply(206, data[int(first) :], ETag=f'"{_etag(data)}"', X_Repo_Commit=sha, Content_Range=span)
        return self._reply(200, data, ETag=f'"{_etag(data)}"', X_Repo_Commit=sha, Content_Length=str(len(data)))

    do_GET = do_POST = do_HEAD = _handle


def _etag(data):
    return hashlib.sha1(data).hexdigest()


@contextmanager
def serving():
    """A running Hub and its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
