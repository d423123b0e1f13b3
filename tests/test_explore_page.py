"""The page of `dense-ctx explore` in a real browser: `pytest -m clients tests/test_explore_page.py`.

It needs Chromium (Debian's package chromium, or DENSE_CTX_CHROMIUM=PATH) and `pip install playwright`.
"""

import importlib.util
import json
import os
import shutil
import signal
import time
import zipfile

import numpy as np
import pytest
from explore_process import Server
from PIL import Image

from dense_ctx.data.video import write_video

CHROMIUM = os.environ.get("DENSE_CTX_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"
HEIGHT, WIDTH = 120, 160
pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(
        CHROMIUM is None or importlib.util.find_spec("playwright") is None,
        reason="no Chromium, or no playwright to drive it",
    ),
]


def picture(shift=0, seed=0):
    values = np.random.default_rng(seed).integers(20, 60, (HEIGHT, WIDTH, 3))
    values[30:90, 50 + shift : 110 + shift] += 160
    return values.astype(np.uint8)


def box(shift=0):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[30:90, 50 + shift : 110 + shift] = True
    return mask


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for index in range(4):
        Image.fromarray(picture(5 * index, index)).save(folder / f"photo{index}.png")
    return folder


@pytest.fixture
def server(tmp_path, photos):
    with Server(tmp_path / "work", photos) as server:
        yield server


class Visitor:
    """A tab: opened, painted in, looked at. Faults of its scripts fail the test."""

    def __init__(self, browser, address, width=1280, height=800, **options):
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, accept_downloads=True, **options
        )
        self.faults = []
        self.page = self.tab(address)

    def tab(self, address):
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        return page

    def at(self, x, y, page=None):
        """The place on the screen of a pixel of the image."""
        page = page or self.page
        place = page.locator(".layers").first.bounding_box()
        item = page.locator("#item-name small").inner_text().split("·")[1].split("×")
        return place["x"] + place["width"] * x / int(item[0]), place["y"] + place["height"] * y / int(item[1])

    def stroke(self, *points, page=None):
        page = page or self.page
        page.mouse.move(*self.at(*points[0], page))
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*self.at(*point, page), steps=8)
        page.mouse.up()

    def paint(self, page=None):
        """The box, and what is around it."""
        page = page or self.page
        page.keyboard.press("2")
        self.stroke((60, 60), (100, 60), page=page)
        page.keyboard.press("1")
        self.stroke((10, 10), (150, 12), page=page)
        self.saved(page)

    def saved(self, page=None):
        from playwright.sync_api import expect

        expect((page or self.page).locator("#saved")).to_have_text("saved", timeout=20_000)

    def overlay(self, page=None, view=0):
        """What lies over the image, alpha, at the image's size."""
        page = page or self.page
        alphas = page.evaluate(
            """([view, width, height]) => {
                const small = new OffscreenCanvas(width, height).getContext("2d");
                small.imageSmoothingEnabled = false;
                small.drawImage(document.querySelectorAll(".overlay")[view], 0, 0, width, height);
                return Array.from(small.getImageData(0, 0, width, height).data.filter((_, i) => i % 4 === 3)).join();
            }""",
            [view, WIDTH, HEIGHT],
        )
        return np.array(alphas.split(","), int).reshape(HEIGHT, WIDTH) > 0

    def until(self, check, what, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if check():
                return
            self.page.wait_for_timeout(100)
        pytest.fail(what)

    def shows(self, mask, page=None, view=0):
        """Wait until the mask is that one, by and large."""
        self.until(lambda: (self.overlay(page, view) == mask).mean() > 0.96, "the mask did not follow")

    def close(self):
        self.context.close()
        assert self.faults == []


@pytest.fixture
def visit(browser):
    visitors = []

    def open_(server, **options):
        visitors.append(Visitor(browser, server.address, **options))
        return visitors[-1]

    yield open_
    for visitor in visitors:
        visitor.close()


def strokes(server, item=0):
    return server.ask(f"/api/items/{item}/strokes")[1]["strokes"]


def test_paint_predict_correct_undo_export_reload(server, visit, tmp_path):
    visitor = visit(server)
    page = visitor.page
    assert "Paint a stroke" in page.locator("#hint").inner_text()
    visitor.paint()
    visitor.shows(box())
    assert not page.locator("#hint").is_visible()
    first = strokes(server)[0]
    assert first["class"] == 1
    assert np.abs(np.array(first["points"]) - (60, 60)).min(0).max() < 2, "where it was painted, to the pixel"
    assert abs(first["points"][-1][0] - 100) < 2

    page.keyboard.press("ArrowRight")
    visitor.shows(box(5))
    # correct: the upper half of the box is background, says a stroke
    page.keyboard.press("1")
    visitor.stroke((60, 40), (110, 40))
    visitor.saved()
    visitor.until(lambda: not visitor.overlay()[38:42, 65:105].any(), "the correction did not show")
    page.keyboard.press("Control+z")
    visitor.shows(box(5))
    assert strokes(server, 1) == []
    page.keyboard.press("Control+Shift+Z")
    visitor.until(lambda: not visitor.overlay()[38:42, 65:105].any(), "the correction did not come back")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Control+z")
    visitor.until(lambda: "photo1" in page.locator("#item-name").inner_text(), "what was undone is not seen")
    visitor.saved()
    page.keyboard.press("a")
    visitor.saved()

    page.click("#open-export")
    page.select_option("#format", "png")
    page.click("#export button.primary")
    page.wait_for_selector("#download:not([hidden])")
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "labels.zip")
    with zipfile.ZipFile(tmp_path / "labels.zip") as archive:
        labels = np.asarray(Image.open(archive.open("photo2.png")))
    assert ((labels == 1) == box(10)).mean() > 0.97
    page.keyboard.press("Escape")

    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert "photo1.png" in page.locator("#item-name").inner_text(), "the same item"
    visitor.shows(box(5))
    assert page.locator("#accept").get_attribute("aria-pressed") == "true"


def test_the_mask_follows_while_a_stroke_is_drawn(server, visit):
    visitor = visit(server)
    page = visitor.page
    visitor.paint()
    page.keyboard.press("e")
    page.mouse.move(*visitor.at(10, 10))
    page.mouse.down()
    page.mouse.move(*visitor.at(150, 12), steps=30)
    page.wait_for_timeout(300)
    page.mouse.move(*visitor.at(140, 14), steps=10)
    visitor.until(lambda: len(strokes(server)) == 3, "nothing was sent before the stroke ended")
    for x in range(140, 10, -2):
        page.mouse.move(*visitor.at(x, 14))
    page.mouse.up()
    visitor.saved()
    assert len(strokes(server)) == 3, "one stroke, however many parts were sent"
    assert strokes(server)[2]["class"] is None
    page.keyboard.press("Control+z")
    visitor.saved()
    assert len(strokes(server)) == 2, "one step of undo"


def test_a_dropped_connection_loses_and_doubles_nothing(server, visit):
    visitor = visit(server)
    page = visitor.page
    page.route("**/api/edits", lambda route: route.abort())
    visitor.stroke((60, 60), (90, 60))
    visitor.stroke((60, 70), (90, 70))
    visitor.until(lambda: "unsaved" in page.locator("#saved").inner_text(), "the page does not say so")
    assert strokes(server) == []
    page.unroute("**/api/edits")
    visitor.saved()
    assert [round(s["points"][0][1]) for s in strokes(server)] == [60, 70], "in their order"

    lost = []

    def lose(route):  # the server makes the edit, and its answer is lost
        route.fetch()
        lost.append(route.request)
        route.abort()

    page.route("**/api/edits", lose, times=2)
    visitor.stroke((60, 80), (90, 80))
    visitor.until(lambda: len(lost) == 2, "it was not sent again")
    visitor.saved()
    assert [round(s["points"][0][1]) for s in strokes(server)] == [60, 70, 80], "once each"


def test_a_tab_that_closes_leaves_its_strokes_for_the_next(server, visit):
    visitor = visit(server)
    page = visitor.page
    page.route("**/api/edits", lambda route: route.abort())
    visitor.stroke((60, 60), (90, 60))
    page.wait_for_timeout(500)
    page.close(run_before_unload=False)
    visitor.page = visitor.tab(server.address)
    visitor.saved()
    visitor.until(lambda: len(strokes(server)) == 1, "the stroke did not arrive")


def test_a_killed_server_comes_back_to_the_same_page(tmp_path, photos, visit):
    with Server(tmp_path / "work", photos) as first:
        visitor = visit(first)
        port = int(first.address.rstrip("/").rpartition(":")[2])
        visitor.paint()
        place = visitor.page.locator("#stage").bounding_box()
        first.end(signal.SIGKILL)
    visitor.page.keyboard.press("2")
    visitor.stroke((60, 80), (90, 80))
    visitor.until(lambda: "unsaved" in visitor.page.locator("#saved").inner_text(), "not said")
    assert visitor.page.locator("#stage").bounding_box() == place, "the image moves under the brush"
    with Server(tmp_path / "work", photos, port=port) as second:
        visitor.saved()
        assert [round(s["points"][0][1]) for s in strokes(second)] == [60, 10, 80]
        visitor.shows(box())


def test_two_tabs_see_each_other(server, visit):
    visitor = visit(server)
    other = visit(server).page
    visitor.paint()
    visitor.shows(box(), other)
    assert other.locator("#clear").is_enabled()
    visitor.page.bring_to_front()
    visitor.page.fill("#class-name", "leaf")
    visitor.page.keyboard.press("Enter")
    visitor.until(lambda: "leaf" in other.locator("#classes").inner_text(), "the class did not come")
    other.locator("#classes li", has_text="leaf").locator("[data-act=rename]").click()
    other.keyboard.type("twig")
    other.keyboard.press("Enter")
    visitor.until(lambda: "twig" in visitor.page.locator("#classes").inner_text(), "the name did not come")


def test_a_clip_is_labelled_propagated_and_corrected(tmp_path, visit):
    clip = write_video(tmp_path / "clip.mp4", [picture(3 * index, 0) for index in range(10)], fps=10)
    with Server(tmp_path / "work", clip) as server:
        visitor = visit(server)
        page = visitor.page
        visitor.paint()
        page.keyboard.press("r")
        visitor.until(lambda: "Propagated." in page.locator("#toasts").inner_text(), "it did not end", 60)
        page.keyboard.press("End")
        visitor.shows(box(27))
        page.keyboard.press("1")
        visitor.stroke((10, 110), (150, 112))
        visitor.saved()
        page.click("#propagate")
        visitor.until(lambda: page.locator("#propagate").inner_text() == "Propagate", "it did not end", 60)
        assert server.ask("/api/state")[1]["items"][9]["strokes"] == 1
        page.focus("#frame")
        page.keyboard.press("Home")
        visitor.shows(box())


def test_similarity_pca_and_uncertainty_of_two_models(tmp_path, photos, visit):
    with Server(tmp_path / "work", photos, models=("rgb-xy+upsample", "rgb-xy+dpt(dim=8)")) as server:
        visitor = visit(server)
        page = visitor.page
        assert page.locator(".model-name").all_inner_texts() == ["rgb-xy+upsample", "rgb-xy+dpt(dim=8)"]
        visitor.paint()
        visitor.shows(box())
        visitor.until(lambda: visitor.overlay(view=1).any(), "the second model shows nothing")
        for key in "up":
            page.keyboard.press(key)
            visitor.until(lambda: visitor.overlay().mean() > 0.2, key)
        page.keyboard.press("s")
        page.mouse.click(*visitor.at(80, 60))
        assert page.locator(".pick:visible").count() == 2
        card = page.locator("#strip .card").nth(2).locator("canvas")
        visitor.until(lambda: card.evaluate("c => c.width") > 100, "no similarity in the strip")
        page.keyboard.press("ArrowRight")
        visitor.until(lambda: visitor.overlay().mean() > 0.1, "no similarity on the next image")
        assert page.locator(".pick:visible").count() == 0, "the pixel is on another image"


def test_the_gallery_and_the_next_image(server, visit):
    visitor = visit(server)
    page = visitor.page
    visitor.paint()
    page.keyboard.press("a")
    visitor.until(lambda: page.locator("#strip .card[data-status=accepted]").count() == 1, "no mark")
    page.keyboard.press("g")
    cards = page.locator("#cards .card")
    visitor.until(lambda: page.locator("#cards .meter:not([hidden])").count() == 4, "no uncertainty")
    page.select_option("#gallery-filter", "open")
    assert cards.count() == 3
    page.select_option("#gallery-order", "uncertain")
    visitor.until(lambda: page.locator("#gallery-count").inner_text() == "3 of 4", "not in order")
    cards.nth(1).click()
    assert not page.locator("#gallery").is_visible()
    page.keyboard.press("n")
    visitor.until(lambda: "photo0" not in page.locator("#item-name").inner_text(), "an accepted image again")


def test_what_was_exported_comes_back(tmp_path, photos, visit):
    with Server(tmp_path / "work", photos) as server:
        visitor = visit(server)
        visitor.paint()
        assert server.ask("/api/export", {"format": "coco"})[0] == 200
    labels = tmp_path / "work/exports/coco/labels.json"
    assert json.loads(labels.read_text())["annotations"]
    with Server(tmp_path / "again", photos) as server:
        visitor = visit(server)
        page = visitor.page
        page.click("#open-import")
        page.set_input_files("#import-file", labels)
        page.click("#import button.primary")
        visitor.until(lambda: "4 items labelled" in page.locator("#import-result").inner_text(), "not read")
        page.keyboard.press("Escape")
        visitor.shows(box())
        page.set_input_files("#import-file", {"name": "a.json", "mimeType": "", "buffer": b"{}"})
        page.click("#open-import")
        page.click("#import button.primary")
        visitor.until(lambda: page.locator("#import-result.error").count() == 1, "no error")


def test_keys_names_and_focus(server, visit):
    visitor = visit(server)
    page = visitor.page
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, select, [role=radio]')].filter(e => e.checkVisibility() &&"
        "!(e.ariaLabel || e.textContent.trim() || e.labels?.length || e.title)).map(e => e.outerHTML)"
    )
    assert unnamed == []
    stops = []
    for _ in range(40):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.id || document.activeElement.dataset.tool || ''"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", stops[-1]
        if stops[-1] == "stage":
            break
    assert {"previous", "following", "opacity", "open-export", "theme", "brush", "radius", "class-name", "accept"} - {
        "previous"} <= set(stops)  # the first item has none before it  # fmt: skip
    page.keyboard.press("[")
    small = int(page.locator("#radius").input_value())
    page.keyboard.press("]")
    assert int(page.locator("#radius").input_value()) > small
    page.keyboard.press("e")
    assert page.locator("#tools [data-tool=eraser]").get_attribute("aria-checked") == "true"
    page.locator("#tools [data-tool=eraser]").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#tools [data-tool=similarity]").get_attribute("aria-checked") == "true"
    page.keyboard.press("2")
    assert page.locator("#classes [aria-checked=true]").inner_text().startswith("object")
    before = page.locator(".layers").first.bounding_box()["width"]
    page.locator("#stage").focus()
    page.keyboard.press("+")
    assert page.locator(".layers").first.bounding_box()["width"] > before * 1.2
    page.mouse.move(*visitor.at(80, 60))
    place = visitor.at(80, 60)
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(200)
    assert np.abs(np.subtract(visitor.at(80, 60), place)).max() < 3, "the wheel keeps what is under the pointer"
    page.keyboard.press("0")
    page.wait_for_timeout(200)
    assert abs(page.locator(".layers").first.bounding_box()["width"] - before) < 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (400, 820)])
def test_it_is_readable(server, visit, scheme, width, height):
    visitor = visit(server, width=width, height=height, color_scheme=scheme)
    page = visitor.page
    background = page.evaluate("getComputedStyle(document.body).backgroundColor").strip("rgb()").split(",")
    assert (max(map(int, background)) < 80) == (scheme == "dark")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    for name in ("#stage .layers img", "#open-export", "#accept", "#class-name", "#strip .card"):
        place = page.locator(name).first.bounding_box()
        assert place["width"] > 20, name
        assert place["x"] >= 0, name
        assert place["x"] + place["width"] <= width + 1, name
        assert place["y"] + place["height"] <= height + 1, name
    visitor.paint()
    visitor.shows(box())
    page.click("#theme")
    other = page.evaluate("getComputedStyle(document.body).backgroundColor").strip("rgb()").split(",")
    assert (max(map(int, other)) < 80) == (scheme == "light")


def test_a_refused_edit_is_said_and_the_page_goes_on(server, visit):
    visitor = visit(server)
    page = visitor.page
    page.fill("#class-name", "object")
    page.keyboard.press("Enter")
    visitor.until(lambda: "a second class 'object'" in page.locator("#toasts").inner_text(), "not said")
    page.locator("#stage").focus()
    visitor.paint()
    visitor.shows(box())


def test_many_classes_of_long_names_leave_everything_in_reach(tmp_path, photos, visit):
    names = ["background", "a class of a long name that has no room in the list", *(f"class {i}" for i in range(60))]
    with Server(tmp_path / "work", photos, "--classes", *names) as server:
        page = visit(server, width=1280, height=720).page
        assert page.locator("header.bar").bounding_box()["height"] < 60  # one line
        side = page.locator("aside").bounding_box()
        for row in ("#classes li:nth-child(2)", "#new-class button", "#clear"):
            place = page.locator(row).bounding_box()
            assert place["x"] + place["width"] <= side["x"] + side["width"], row
            assert place["y"] + place["height"] <= side["y"] + side["height"], row
        page.locator("#classes li:nth-child(2)").hover()
        pen = page.locator("#classes li:nth-child(2) .edit").first.bounding_box()
        assert pen["x"] + pen["width"] < side["x"] + side["width"]
        assert page.locator("#classes li:nth-child(2) [role=radio]").get_attribute("title").startswith(names[1])


def test_a_magnified_page_scrolls_and_can_be_painted_on(server, visit):
    visitor = visit(server, width=640, height=400)  # 1280 x 800 at 200 %
    assert visitor.page.locator("#stage").bounding_box()["y"] >= 0
    assert visitor.page.locator("#stage").bounding_box()["height"] >= 200
    visitor.paint()
    visitor.shows(box())
    visitor.page.locator("#clear").click()
    visitor.saved()
    assert strokes(server) == []
