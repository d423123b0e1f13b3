"""Label Studio itself, in an environment of its own, with a data folder of its own, and its HTTP interface."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

from client_environments import client_python

REQUIREMENT = "label-studio==1.23.2"
TOKEN = "0123456789abcdef0123456789abcdef01234567"
EMAIL, PASSWORD = "me@example.org", "a-password-of-mine"


class LabelStudio:
    """A server that is started with one user; sqlite in `folder`."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        program = client_python("label-studio-server", REQUIREMENT).with_name("label-studio")
        switches = ("ML_BLOCK_LOCAL_IP", "SSRF_PROTECTION_ENABLED", "COLLECT_ANALYTICS", "LATEST_VERSION_CHECK")
        environment = {**os.environ, **dict.fromkeys(switches, "false"), "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "",
                       "LABEL_STUDIO_BASE_DATA_DIR": str(folder)}  # fmt: skip
        words = ["start", "--no-browser", "--port", str(port), "--internal-host", "127.0.0.1", "--data-dir", folder,
                 "--username", EMAIL, "--password", PASSWORD, "--user-token", TOKEN,
                 "--enable-legacy-api-token"]  # fmt: skip
        self.log = Path(folder).parent / "label-studio.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [program, *map(str, words)], stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def __enter__(self):
        end = time.monotonic() + 300
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                if self.ask("/health")["status"] == "UP":
                    return self
            except OSError:
                time.sleep(0.5)
        raise TimeoutError(self.log.read_text()[-3000:])

    def __exit__(self, *_):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ask(self, path, body=None, method=None, data=None, kind="application/json"):
        """JSON of a request; urllib.error.HTTPError has `detail`, the answer's text."""
        data = json.dumps(body).encode() if body is not None else data
        head = {"Authorization": f"Token {TOKEN}", "Content-Type": kind}
        request = urllib.request.Request(self.url + path, data, head, method=method)
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            error.detail = error.read().decode()
            raise

    def project(self, config, files):
        """A project with images; its id, and the tasks' ids in the order of the files."""
        number = self.ask("/api/projects/", {"title": "scenes", "label_config": config})["id"]
        mark, parts = uuid.uuid4().hex, b""
        for file in files:
            head = f'Content-Disposition: form-data; name="{file.name}"; filename="{file.name}"'
            parts += f"--{mark}\r\n{head}\r\nContent-Type: image/jpeg\r\n\r\n".encode() + file.read_bytes() + b"\r\n"
        parts += f"--{mark}--\r\n".encode()
        self.ask(f"/api/projects/{number}/import", data=parts, kind=f"multipart/form-data; boundary={mark}")
        tasks = self.ask(f"/api/tasks?project={number}&page_size=1000")["tasks"]
        ids = {next(iter(t["data"].values())).rsplit("/", 1)[1].partition("-")[2]: t["id"] for t in tasks}
        return number, [ids[file.name] for file in files]

    def predictions(self, number, tasks):
        """Have the model predict tasks; the last prediction of each, by its task."""
        selection = {"selectedItems": {"all": False, "included": tasks}}
        self.ask(f"/api/dm/actions?id=retrieve_tasks_predictions&project={number}", selection)
        rows = self.ask(f"/api/predictions?project={number}")
        return {row["task"]: row for row in sorted(rows, key=lambda row: row["id"]) if row["task"] in tasks}
