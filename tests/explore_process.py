"""`dense-ctx explore` as a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

MODEL = "rgb-xy+upsample"


class Server:
    """The command in a process of its own."""

    def __init__(self, folder, source, *options, port=0, models=(MODEL,)):
        model_options = [word for model in models for word in ("--model", model)]
        arguments = ["explore", str(source), *model_options, "--save", str(folder), "--port", str(port), *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dense_ctx.cli", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.output, self.address = "", None
        while self.address is None:
            text = self.process.stdout.readline()
            if not text:
                break
            self.output += text
            if match := re.search(r"http://\S+", text):
                self.address = match[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end(signal.SIGKILL)

    def end(self, number):
        """Send a signal; status and errors."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors

    def ask(self, path, body=None, headers=None):
        """Status and JSON of a request."""
        data = None if body is None else json.dumps(body).encode()
        base = self.address.split("?")[0].rstrip("/")
        request = urllib.request.Request(
            base + path, data, {"content-type": "application/json", **(headers or {})}, method="POST" if data else "GET"
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
