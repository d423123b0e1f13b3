"""Label Studio's own HTTP interface, at the address that the user named and at no other."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any, NoReturn
from urllib.parse import urljoin, urlsplit

from dense_ctx_http.refusals import Refusal

from dense_ctx.errors import InputError, cause_of

TIMEOUT = 60.0  # seconds
MAX_EXPORT, MAX_IMAGE = 1 << 30, 1 << 28  # bytes


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect may lead to a place that the user did not name."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        """None: the answer is an error of status 30x."""


class StudioApi:
    """Reads projects, annotations and images.

    Args:
        url: of Label Studio. token: of a user there: a legacy token, or a personal access token, which is exchanged
            for short-lived ones.

    Raises:
        InputError: the address is not one of HTTP, or there is no token.
    """

    def __init__(self, url: str, token: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise InputError(f"--label-studio {url[:200]} is not an address; expected http://localhost:8080 or alike")
        if not token or not token.isascii() or not token.isprintable():
            raise InputError(
                "--label-studio needs a user's token: --label-studio-token TOKEN or LABEL_STUDIO_API_KEY (in Label "
                "Studio: Account & Settings)"
            )
        self.url, self._token = url.rstrip("/") + "/", token.strip()
        self._access = ""  # of a personal access token
        self._opener = urllib.request.build_opener(_NoRedirect)

    def project(self, number: int) -> dict[str, Any]:
        """A project. Raises Refusal: there is none, no access, no connection."""
        facts = self._json(f"api/projects/{number}/", f"project {number}", 1 << 26)
        if not isinstance(facts, dict):
            raise Refusal(f"project {number} that is no object", "a project", "check --label-studio", 502)
        return facts

    def annotated(self, number: int) -> list[dict[str, Any]]:
        """The annotated tasks of a project, as exported. Errors as `project`."""
        tasks = self._json(f"api/projects/{number}/export?exportType=JSON", f"project {number}", MAX_EXPORT)
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise Refusal(f"an export of project {number} that is no list", "tasks", "check --label-studio", 502)
        return tasks

    def image(self, address: str) -> bytes:
        """The content of a task's image.

        Raises:
            Refusal: it lies elsewhere than in Label Studio, there is none, no access, no connection.
        """
        full = urljoin(self.url, address)
        own, other = urlsplit(self.url), urlsplit(full)
        if (own.scheme, own.netloc) != (other.scheme, other.netloc):
            raise Refusal(
                f"an image at {address[:120]}", f"one of {self.url}", "give the folder of the images, --images FOLDER"
            )
        return self._get(full, f"the image {address[:120]}", MAX_IMAGE)

    def _json(self, path: str, what: str, limit: int) -> Any:
        content = self._get(urljoin(self.url, path), what, limit)
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise Refusal(f"{what}: no JSON from {self.url}", "Label Studio", "check --label-studio", 502) from None

    def _get(self, address: str, what: str, limit: int) -> bytes:
        try:
            return self._open(address, limit, what)
        except urllib.error.HTTPError as error:
            if error.code != 401 or self._token.count(".") != 2:
                _refuse(error, what)
        self._access = ""  # it has run out
        try:
            return self._open(address, limit, what)
        except urllib.error.HTTPError as error:
            _refuse(error, what)

    def _open(self, address: str, limit: int, what: str) -> bytes:
        request = urllib.request.Request(address, headers={"Authorization": self._authorization()})
        return self._read(request, limit, what)

    def _authorization(self) -> str:
        if self._token.count(".") != 2:
            return f"Token {self._token}"
        if not self._access:  # a personal access token, which is a JWT
            data = json.dumps({"refresh": self._token}).encode()
            head = {"Content-Type": "application/json"}
            request = urllib.request.Request(urljoin(self.url, "api/token/refresh"), data, head)
            try:
                answer = json.loads(self._read(request, 1 << 20, "the token"))
                self._access = str(answer["access"])
            except urllib.error.HTTPError as error:
                _refuse(error, "the token")
            except (ValueError, KeyError, TypeError):
                raise Refusal("a token that is not exchanged", "a user's token", "make a new one", 502) from None
        return f"Bearer {self._access}"

    def _read(self, request: urllib.request.Request, limit: int, what: str) -> bytes:
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                content: bytes = answer.read(limit + 1)
        except urllib.error.HTTPError:
            raise
        except (OSError, ValueError) as error:
            cause = cause_of(error)
            raise Refusal(f"{what}: no answer from {self.url} ({cause})", "Label Studio", "start it", 502) from None
        if len(content) > limit:
            raise Refusal(f"{what} with more than {limit:,} bytes", f"at most {limit:,}", "take a smaller one", 502)
        return content


def _refuse(error: urllib.error.HTTPError, what: str) -> NoReturn:
    error.close()
    if error.code in (401, 403):
        raise Refusal(f"{what}: Label Studio refuses the token", "a user's token", "see --label-studio-token", 502)
    if error.code == 404:
        raise Refusal(f"{what}, which Label Studio does not have", "one that it has", "see its list", 404)
    if 300 <= error.code < 400:
        raise Refusal(f"{what} is stored elsewhere", "one in Label Studio", "give its folder, --images FOLDER")
    raise Refusal(f"{what}: status {error.code} from Label Studio", "200", "see Label Studio's log", 502)
