"""Run inside X-AnyLabeling's environment: its own window and model class against a server; prints JSON.

    python anylabeling_client.py URL KEY FOLDER PICTURE

FOLDER has photo0.png ...; photo0.json is annotated. PICTURE: where the window is drawn to.
"""

import json
import os
import sys
import time
from pathlib import Path

import anylabeling.config as settings
import yaml
from PyQt6 import QtGui, QtWidgets

url, key, folder, picture = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]
settings._work_directory = str(folder.parent)
settings.current_config_file = str(folder.parent / ".xanylabelingrc")
Path(settings.current_config_file).write_text(
    yaml.safe_dump({"remote_server_settings": {"server_url": url, "api_key": key}, "language": "en_US"})
)
app = QtWidgets.QApplication(sys.argv[:1])
from anylabeling.resources import resources  # noqa: E402, F401 - icons and the list of models
from anylabeling.views.labeling.utils.theme import init_theme  # noqa: E402
from anylabeling.views.mainwindow import MainWindow  # noqa: E402

files = sorted(map(str, folder.glob("*.png")))
init_theme("light")
config = settings.get_config(settings.current_config_file, {"auto_save": True})
window = MainWindow(app, config=config, filename=str(folder))
window.resize(1400, 860)
window.show()
view = window.labeling_widget.view
panel = view.auto_labeling_widget
manager = panel.model_manager
answers = {}
SECONDS = float(os.environ.get("DENSE_CTX_SECONDS", "120"))  # of patience


def wait(until, seconds=SECONDS):
    end = time.monotonic() + seconds
    while not until():
        app.processEvents()
        time.sleep(0.02)
        if time.monotonic() > end:
            raise TimeoutError(f"nothing came: {messages[-3:]}")
    for _ in range(10):
        app.processEvents()
        time.sleep(0.02)


def polygons(shapes):
    return [{"label": s.label, "type": s.shape_type, "score": s.score, "points": [[p.x(), p.y()] for p in s.points]}
            for s in shapes]  # fmt: skip


def choose(model):
    """As a user does in the list of the server's models."""
    box = panel.remote_server_select_combobox
    box.setCurrentIndex(box.findData(model))
    panel.on_remote_server_model_changed()
    app.processEvents()


messages = []
manager.new_model_status.connect(messages.append)
entry = next(c for c in manager.model_configs if c["name"].startswith("remote_server"))
manager.load_model(entry["config_file"])
wait(lambda: manager.loaded_model_config is not None and panel.remote_server_select_combobox.count() > 0)
answers["models"] = [
    panel.remote_server_select_combobox.itemText(i) for i in range(panel.remote_server_select_combobox.count())
]
model = manager.loaded_model_config["model"]


def load(index):
    view.load_file(files[index])
    wait(lambda: view.filename == files[index] and not view.image.isNull())


# classes, by the folder's annotated image
load(1)
choose("classes")
answers["run_shown"] = panel.button_run.isVisibleTo(panel)
panel.run_prediction()
wait(lambda: len(view.canvas.shapes) > 0)
answers["classes"] = polygons(view.canvas.shapes)
window.grab().save(picture)
view.canvas.shapes.clear()
# the annotated image itself keeps its shapes
load(0)
before = len(view.canvas.shapes)
answers["own"] = [before, len(model.predict_shapes(view.image, files[0]).shapes)]
# an object at a click, and one beside it
load(2)
choose("objects")
answers["point_shown"] = panel.button_add_point.isVisibleTo(panel)
answers["run_hidden"] = not panel.button_run.isVisibleTo(panel)
middle = [view.image.width() // 2, view.image.height() // 2]
panel.on_new_marks([{"type": "point", "data": middle, "label": 1}])
wait(lambda: any(s.label == "AUTOLABEL_OBJECT" for s in view.canvas.shapes))
answers["object"] = polygons([s for s in view.canvas.shapes if s.label == "AUTOLABEL_OBJECT"])
# no mark: what the tool says
model.set_auto_labeling_marks([])
model.predict_shapes(view.image, files[2])
answers["refusal"] = messages[-1]
# a clip: marked in one frame, carried to the others, written by the tool
choose("video")
clip = sorted(map(str, (folder.parent / "clip").glob("*.png")))
frame = QtGui.QImage(clip[1])


class Clip:
    image_list, output_dir, _config = clip, None, {"store_data": False}


model._widget = Clip
model.set_auto_labeling_marks([{"type": "point", "data": middle, "label": 1}])
answers["prompt"] = polygons(model.predict_shapes(frame, clip[1]).shapes)
model.set_cache_auto_label("box", 7)
model.set_auto_labeling_marks([])
model.video_prompt_frame = 0  # from the first frame on
model.predict_shapes(frame, clip[1], run_tracker=True)
answers["written"] = sorted(path.name for path in (folder.parent / "clip").glob("*.json"))
model._reset_video_session()
answers["messages"] = messages
print(json.dumps(answers))
sys.stdout.flush()
os._exit(0)  # its threads do not all end
