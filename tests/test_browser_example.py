"""The page of examples/browser in Chromium: `pytest -m clients tests/test_browser_example.py`.

It needs Chromium (Debian's package chromium, or DENSE_CTX_CHROMIUM=PATH), `pip install playwright` and npm.
"""

import contextlib
import functools
import http.server
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dense_ctx import AutoDenseModel, InContext

ROOT = Path(__file__).parents[1]
CHROMIUM = os.environ.get("DENSE_CTX_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync "
         "--use-fake-ui-for-media-stream --use-fake-device-for-media-stream")  # fmt: skip
HEIGHT, WIDTH = 192, 256
pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(
        CHROMIUM is None or shutil.which("npm") is None or importlib.util.find_spec("playwright") is None,
        reason="no Chromium, no npm, or no playwright",
    ),
]


@pytest.fixture(scope="module")
def page_folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("browser") / "page"
    command = [sys.executable, ROOT / "examples/browser/build.py", out, "--size", f"{HEIGHT}x{WIDTH}"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return out


@pytest.fixture(scope="module")
def address(page_folder):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(page_folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@contextlib.contextmanager
def opened(address, **options):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        page = browser.new_page(**options)
        errors, requests = [], []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        page.wait_for_function("page.model !== null", timeout=120_000)
        yield page
        browser.close()
        assert errors == []
        assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []


def photo(path):
    """A photograph that pip brings, at the page's size, so that the page and Python see the same pixels."""
    from skimage import data

    Image.fromarray(data.astronaut()).resize((WIDTH, HEIGHT)).save(path)
    return path


def draw(page, fraction_points, class_id):
    page.click(f"input[name=class][value='{class_id}']")
    box = page.locator("#strokes").bounding_box()
    spots = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in fraction_points]
    page.mouse.move(*spots[0])
    page.mouse.down()
    for spot in spots[1:]:
        page.mouse.move(*spot, steps=6)
    page.mouse.up()


def test_the_page_gives_the_librarys_answer(address, tmp_path):
    file = photo(tmp_path / "astronaut.png")
    with opened(address, color_scheme="light", viewport={"width": 1100, "height": 760}) as page:
        page.set_input_files("#file", str(file))
        page.wait_for_function("page.features !== null", timeout=120_000)
        draw(page, [(0.05, 0.2), (0.2, 0.9)], 0)
        assert "another class" in page.text_content("#status")
        draw(page, [(0.45, 0.15), (0.45, 0.35), (0.4, 0.7)], 1)
        page.wait_for_function("page.labels !== null")
        page.screenshot(path=os.environ.get("DENSE_CTX_SCREENSHOT", str(tmp_path / "page.png")))
        mask = np.array(page.evaluate("Array.from(page.labels)"), np.uint8).reshape(HEIGHT, WIDTH)
        labels = np.array(page.evaluate("Array.from(page.strokeLabels)"), np.int64).reshape(HEIGHT, WIDTH)
        page.click("#undo")
        assert page.evaluate("page.labels") is None
    assert {*np.unique(labels)} == {0, 1, 255}
    context = InContext(AutoDenseModel.from_pretrained("lila-lite0"), method="ridge")
    context.fit([Image.open(file)], [labels])
    ours = context.predict(Image.open(file)).numpy()
    assert (mask == ours).mean() > 0.999
    assert 0.05 < (mask == 1).mean() < 0.95


def test_a_file_that_is_no_image_and_a_ninth_class(address, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    with opened(address, color_scheme="dark", viewport={"width": 420, "height": 900}) as page:
        page.set_input_files("#file", str(text))
        page.wait_for_function("document.getElementById('status').textContent.includes('not an image')")
        for _ in range(7):
            page.click("#add")
        assert "No more than 8 classes" in page.text_content("#status")
        page.click("#save")
        assert "There is no mask yet" in page.text_content("#status")


def test_the_webcam_is_segmented_live(address):
    with opened(address, permissions=["camera"]) as page:
        page.click("#webcam")
        page.wait_for_function("page.features !== null", timeout=120_000)
        page.click("#freeze")
        draw(page, [(0.1, 0.1), (0.1, 0.8)], 0)
        draw(page, [(0.5, 0.4), (0.6, 0.6)], 1)
        page.wait_for_function("page.labels !== null")
        page.click("#freeze")
        page.wait_for_function("document.getElementById('status').textContent.startsWith('Live. Freeze to correct')")
