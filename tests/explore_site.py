"""A site of `dense-ctx explore` in this process, over tiny images or a tiny clip."""

import contextlib
import itertools

import numpy as np
from dense_ctx_explore.app import application
from dense_ctx_explore.requests import Desk
from dense_ctx_explore.server import workspace_of
from dense_ctx_http.guard import LOOPBACK
from PIL import Image
from starlette.testclient import TestClient

from dense_ctx import AutoDenseModel

HEIGHT, WIDTH = 48, 64
BASE = "http://127.0.0.1:8765"
numbers = itertools.count()


def picture(shift=0, seed=0):
    """A dark image with a bright box, uint8 [48, 64, 3]."""
    values = np.random.default_rng(seed).integers(20, 60, (HEIGHT, WIDTH, 3))
    values[12:36, 20 + shift : 44 + shift] += 160
    return values.astype(np.uint8)


def photos(folder, count=3):
    folder.mkdir(exist_ok=True, parents=True)
    for index in range(count):
        Image.fromarray(picture(3 * index, index)).save(folder / f"photo{index}.png")
    return folder


def model(backbone="rgb-xy"):
    return AutoDenseModel.from_parts(backbone, "upsample").eval()


@contextlib.contextmanager
def site(folder, source, names=("rgb",), token=None, headers=None, **options):
    """A client of a server that keeps its work in `folder`."""
    models = {name: model() for name in names}
    with workspace_of(models, source, folder, **options) as workspace:
        desk = Desk(workspace)
        try:
            app = application(desk, LOOPBACK, token=token)
            with TestClient(app, base_url=BASE, headers=headers or {}) as client:
                client.desk = desk
                yield client
        finally:
            desk.close()


def edit(client, kind, **fields):
    """The response to an edit with an id of its own."""
    body = {"id": f"test-edit-{next(numbers):06d}", "edit": kind, **fields}
    return client.post("/api/edits", json=body)


def line(x0, y0, x1, y1, count=12):
    return np.linspace((x0, y0), (x1, y1), count).tolist()


def paint(client, item=0):
    """A stroke of the box and one of its surroundings."""
    for number, points in ((1, line(26, 24, 38, 24)), (0, line(4, 4, 60, 4))):
        response = edit(client, "stroke", item=item, **{"class": number}, points=points, radius=2)
        assert response.status_code == 200, response.text


def png(response):
    """Values and image of a picture that came."""
    import io

    assert response.status_code == 200, response.text
    image = Image.open(io.BytesIO(response.content))
    return np.asarray(image), image


def box(shift=0):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[12:36, 20 + shift : 44 + shift] = True
    return mask
