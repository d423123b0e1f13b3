"""The Space of examples/space: its header and requirements, and the running application, asked by Gradio's client."""

import json
import os
import re
import subprocess
from importlib.metadata import metadata

import pytest
import yaml
from client_environments import client_python
from wheel_site import ROOT

FOLDER = ROOT / "examples" / "space"
HEADER = yaml.safe_load((FOLDER / "README.md").read_text(encoding="utf-8").split("---\n")[1])
GRADIO = f"gradio=={HEADER['sdk_version']}"
# the page served, and asked as another program asks it
CLIENT = """
import json, sys
import numpy as np
from gradio_client import Client, handle_file
from PIL import Image

sys.path.insert(0, sys.argv[1])
import app

_, address, _ = app.page().launch(prevent_thread_lock=True, server_name="127.0.0.1", quiet=True)
client = Client(address, verbose=False)
picture = np.zeros((96, 128, 3), np.uint8)
picture[:, 64:] = (220, 40, 30)
picture += np.random.default_rng(0).integers(0, 20, picture.shape, dtype=np.uint8)
layer = np.zeros((96, 128, 4), np.uint8)
layer[20:24, 8:56] = (*app.RGB[0], 255)
layer[20:24, 72:120] = (*app.RGB[1], 255)
for name, values in (("photo", picture), ("layer", layer), ("query", picture[:, ::-1]), ("empty", layer * 0)):
    Image.fromarray(values).save(f"{name}.png")
photo, layer = handle_file("photo.png"), handle_file("layer.png")
editor = {"background": photo, "layers": [layer], "composite": photo}
masks = client.predict(editor, handle_file("query.png"), api_name="/segment")
frames = client.predict(60, api_name="/segment_frame")

def refusal(editor):
    try:
        client.predict(editor, None, api_name="/segment")
    except Exception as error:
        return str(error)

def colours(item):
    image = np.asarray(Image.open(item["image"] if isinstance(item, dict) else item).convert("RGB")).astype(int)
    return [image[:, :40].mean((0, 1)).tolist(), image[:, -40:].mean((0, 1)).tolist(), list(image.shape)]

print(json.dumps({
    "masks": [colours(item) for item in masks], "frames": [colours(item) for item in frames],
    "unpainted": refusal({**editor, "layers": [handle_file("empty.png")]}),
    "endpoints": list(client.view_api(return_format="dict")["named_endpoints"]),
}))
app.gradio.close_all()
"""


def test_the_header_is_a_space_s():
    assert HEADER["sdk"] == "gradio"
    assert (FOLDER / HEADER["app_file"]).is_file()
    assert HEADER["license"] == metadata("dense-ctx")["License-Expression"].lower()
    assert f"Programming Language :: Python :: {HEADER['python_version']}" in metadata("dense-ctx").get_all(
        "Classifier"
    )
    assert len(HEADER["short_description"]) <= 60
    names = re.findall(r"^[\w-]+", (FOLDER / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert names == ["dense-ctx", "gradio"]
    assert HEADER["sdk_version"].split(".")[0] == "6"


@pytest.mark.clients
def test_the_application_answers_its_client(tmp_path):
    python = client_python("gradio", GRADIO, with_dense_ctx=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    done = subprocess.run(
        [python, "-c", CLIENT, FOLDER], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    answer = json.loads(line)
    assert answer["endpoints"] == ["/segment", "/segment_frame"]
    (left, right, size), (other_left, other_right, _) = answer["masks"]
    assert size == [96, 128, 3]
    assert right[1] > left[1] + 50  # yellow over the right half, which was red: more green
    assert other_left[1] > other_right[1] + 50  # and over the left half of the mirrored photograph
    assert [shape for *_, shape in answer["frames"]] == [[288, 352, 3]] * 2
    assert "two colours" in answer["unpainted"]
