"""What is known of single blocks of the documentation: why one is not run, and what comes before one that is.

A block is named by its page and its first words. Every entry is used: tests/test_snippets.py.
"""

SUITE = "it starts the tests themselves"
SERVER = "a program that runs until it is stopped: tests/test_explore_command.py, test_serve_command.py"
CVAT = "needs a server of CVAT: tests/test_cvat_clients.py"
TOOL = "starts another program: tests/test_napari.py, test_serve_anylabeling_client.py, test_serve_studio.py"
TEMPLATE = "run by tests/test_template.py"
FRAGMENT = "a fragment of the reader's own class; a whole one is in examples/plugin_template and tests/third_party"
HUB = "needs a repository of the Hub: tests/test_hub.py"
SLURM = "needs Slurm"
HOURS = "hours, and data sets that are not here"

# (page, first words): why the block is only checked, that is parsed or compiled and every name in it looked up
STATIC = {
    ("README.md", 'pip install "dense-ctx[explore]"'): SERVER,
    ("README.md", 'pip install -e ".[test]"'): SUITE,
    ("CONTRIBUTING.md", "cp -r"): TEMPLATE,
    ("CONTRIBUTING.md", "from dense_ctx import hookimpl"): TEMPLATE,
    ("CONTRIBUTING.md", 'pip install -e ".[test]"\ndense-ctx'): TEMPLATE,
    ("CONTRIBUTING.md", "pytest\n"): TEMPLATE,
    ("CONTRIBUTING.md", "from dense_ctx.testing"): TEMPLATE,
    ("CONTRIBUTING.md", 'pip install -e ".[test]"\npytest'): SUITE,
    ("CONTRIBUTING.md", "python3.11 -m venv"): SUITE,
    ("CONTRIBUTING.md", "python3 -m venv /tmp/audit"): "needs a database on the network",
    ("docs/browser.md", 'pip install -e ".[onnx,demo]"'): "npm and a server: tests/test_browser_example.py",
    ("docs/cvat.md", "cvat-cli --server-host https://app.cvat.ai task"): CVAT,
    ("docs/cvat.md", 'cvat-cli --server-host https://app.cvat.ai function create-native "Cups"'): CVAT,
    ("docs/cvat.md", 'cvat-cli --server-host https://app.cvat.ai function create-native "Clicks"'): CVAT,
    ("docs/cvat.md", 'cvat-cli --server-host https://app.cvat.ai function create-native "Prop'): CVAT,
    ("docs/explore.md", "pip install"): SERVER,
    ("docs/explore.md", "dense-ctx explore"): SERVER,
    ("docs/http_api.md", "curl"): SERVER,
    ("docs/lila.md", "python benchmarks/lila_pictures.py"): "minutes; makes the figures of the page",
    ("docs/maxa.md", "python benchmarks/maxa.py"): "minutes; makes the figures of the page",
    ("docs/napari.md", "pip install"): TOOL,
    ("docs/napari.md", "apt-get"): SUITE,
    ("docs/processes.md", "#!/bin/bash"): SLURM,
    ("docs/processes.md", "#SBATCH"): SLURM,
    ("docs/predict.md", "predictor.push_to_hub"): HUB,
    ("docs/reliability.md", "pytest"): SUITE,
    ("docs/results/maxa.md", "python benchmarks"): "minutes; makes the figures of the page",
    ("docs/tests.md", "python tests/mutants.py"): SUITE,
    ("docs/tools.md", 'pip install "dense-ctx'): SERVER,
    ("docs/tools.md", "export TOKEN"): TOOL,
    ("docs/tools.md", 'pip install "x-any'): TOOL,
    ("docs/backbones.md", "dense-ctx train lila-on-dip"): HOURS,
    ("docs/decoders.md", "dense-ctx convert anyup"): "a file that is not here: tests/test_upsamplers.py",
    ("docs/dip.md", "dense-ctx pseudo-label"): HOURS,
    ("docs/evaluation.md", "dense-ctx evaluate dinov2-reg-b14"): HOURS,
    ("docs/evaluation.md", "dense-ctx text"): HOURS,
    ("docs/dip.md", "dense-ctx convert"): "88 MB that are not here: tests/test_dip_convert.py",
    ("docs/export.md", "pip install"): "minutes: tests/test_export.py",
    ("docs/export.md", "from dense_ctx import"): "minutes: tests/test_export.py",
    ("docs/export.md", "from dense_ctx_runtime import OnnxModel"): "minutes: tests/test_export.py, test_runtime.py",
    ("docs/export.md", "from pathlib import Path"): "minutes: tests/test_export.py, test_runtime.py",
    ("docs/export.md", "dense-ctx export lila-lite0 --out small"): "minutes: tests/test_export_int8.py",
    ("docs/lila.md", "python examples/train_lila.py"): HOURS,
    ("docs/maxa.md", "dense-ctx bench maxa-table2"): HOURS,
    ("docs/maxa.md", "dense-ctx bench --backbones efficientnet-lite0 'eff"): HOURS,
    ("docs/maxa.md", "dense-ctx bench --backbones efficientnet-lite0 model"): HOURS,
    ("docs/maxa.md", "accelerate launch"): HOURS,
    ("docs/results/maxa.md", "dense-ctx bench"): HOURS,
    ("docs/training.md", "dense-ctx train --list"): HOURS,
    ("docs/training.md", "dense-ctx train run.yaml log_with=wandb"): "trackers of others: tests/test_trackers.py",
    ("docs/trust.md", "from dense_ctx import AutoDenseModel"): HUB,
    ("docs/backbones.md", "from segmentation_models_pytorch"): "its package: tests/test_other_trainers.py",
    ("runtime/README.md", "from dense_ctx_runtime import OnnxModel"): "minutes: tests/test_runtime.py",
    ("runtime/README.md", "from pathlib import Path"): "minutes: tests/test_runtime.py",
    ("examples/plugin_template/README.md", "pip install"): TEMPLATE,
    ("examples/space/README.md", "pip install"): "a server: tests/test_space.py",
}

PHOTOS = """
from dense_ctx.images import load
from dense_ctx_demo import demo
"""
LITE = """
from dense_ctx import AutoDenseModel, InContext
model = AutoDenseModel.from_parts("efficientnet-lite0", "upsample")
"""
DIP = """
AutoDenseModel.from_parts("dinov2-s14", "upsample").save_pretrained("runs/dip-lite0/model")
AutoDenseModel.from_parts("dinov2-s14", "upsample").save_pretrained("runs/dip-b14/model")
"""
# what a page's blocks have beside the files of snippet_stage.py: code that runs before the first
BEFORE = {
    "README.md": LITE
    + """
model.save_pretrained("folder-or-hub/repository")
import shutil
shutil.copytree("data/davis/Annotations/480p", "predictions")
""",
    "docs/backbones.md": LITE
    + """
from typing import Any
import torch
from transformers import Dinov2Config, Dinov2Model
from dense_ctx import create_backbone
images = torch.rand(1, 3, 64, 96)
network = create_backbone("dinov2-s14", weights=None).get_submodule("net")
torch.save(network.state_dict(), "dinov2_vits14.pth")
tiny: Any = dict(hidden_size=24, num_hidden_layers=12, num_attention_heads=2, image_size=518, patch_size=14)
Dinov2Model(Dinov2Config(**tiny)).save_pretrained("folder")
"""
    + DIP,
    "docs/cues.md": """
import torch
from dense_ctx.config import Part
from dense_ctx_lila.cues.base import Cue
context, query = torch.rand(2, 2, 3, 64, 96)
def gradient(image):
    return torch.stack(torch.gradient(image.mean(1), dim=(-1, -2)), 1)
""",
    "docs/cvat.md": """
from snippet_stage import annotate
annotate("annotations.xml", "cvat")
""",
    "docs/decoders.md": LITE,
    "docs/labels.md": """
from pathlib import Path
import numpy, rasterio
from dense_ctx import AutoDenseModel, InContext
from dense_ctx_labels.classes import Classes
from snippet_stage import annotate
annotate("annotations", "labelme")
context = InContext(AutoDenseModel.from_parts("rgb-xy", "upsample")).fit("a.jpg", "a_mask.png")
classes = Classes(("background", "field"))
values = numpy.random.default_rng(0).integers(0, 3000, (4, 64, 96), dtype=numpy.uint16)
with rasterio.open("scene.tif", "w", driver="GTiff", count=4, height=64, width=96, dtype="uint16") as file:
    file.write(values)
""",
    "docs/large_images.md": LITE
    + """
import numpy
image, mask, other = "a.jpg", "a_mask.png", "b.jpg"
context, x, y = InContext(model), 3, 5
""",
    "docs/measures.md": LITE
    + """
from dense_ctx.data.video import Video
from dense_ctx.images import load, load_mask
images, masks = [load(name) for name in ("a.jpg", "b.jpg")], [load_mask(name) for name in ("a.png", "b.png")]
""",
    "docs/retrieval.md": LITE
    + DIP
    + """
import timm, torch
from dense_ctx.images import load, load_mask
support = [(load(f"{name}.jpg"), load_mask(f"{name}_mask.png")[None]) for name in "ab"]
query = load("c.jpg")
vit = timm.create_model("vit_small_patch14_dinov2", embed_dim=24, num_heads=2, dynamic_img_size=True)
""",
    "docs/evaluation.md": """
from dense_ctx import Metric
from dense_ctx.model_spec import open_model
from dense_ctx.evaluate import evaluate
evaluate(open_model("efficientnet-lite0"), "davis2017-linear-grid4-v1", "data/DAVIS", "runs/lila-s14", name="lila-s14")
""",
    "docs/maxa.md": """
import torch
from dense_ctx import AutoDenseModel
from dense_ctx import registry
from dense_ctx.data import ImageSet, open_set
from dense_ctx.data.features import cache_features
from dense_ctx_maxa import losses
from dense_ctx_maxa.scoring import BoundaryScores
from dense_ctx_maxa.tasks import Task
images, coordinates = torch.rand(1, 3, 518, 518), torch.rand(7, 2)
scored = AutoDenseModel.from_parts("efficientnet-lite0", "maxa", decoder_args={"dim": 11})
objective = registry().create("objective", "maxa-semantic", image_size=[28, 28], size=[28, 28])
""",
    "docs/predict.md": """
import shutil
import numpy, rasterio
from dense_ctx import AutoDenseModel, InContext
from dense_ctx_predict import Predictor
from dense_ctx.train import TrainConfig, train
from pathlib import Path
from PIL import Image
from snippet_stage import annotate
annotate("strokes.json", "label-studio")
Path("scenes").mkdir()
def tif(path, values):
    with rasterio.open(path, "w", driver="GTiff", count=len(values), height=64, width=96, dtype=values.dtype) as file:
        file.write(values)
rng = numpy.random.default_rng(0)
tif("part.tif", rng.integers(0, 255, (4, 64, 96), dtype=numpy.uint8))
tif("scenes/one.tif", rng.integers(0, 255, (4, 64, 96), dtype=numpy.uint8))
train(TrainConfig.from_dict({
    "out": "runs/mine", "steps": 1, "batch_size": 2, "model": "efficientnet-lite0+maxa(dim=11)",
    "objective": "maxa-semantic(image_size=[64, 96], size=[64, 96])",
    "data": {"name": "camvid", "root": "CAMVID", "split": "train"},
}))
Image.fromarray((numpy.arange(96)[None].repeat(64, 0) > 40).astype(numpy.uint8)).save("part_mask.png")
""",
    "docs/training.md": """
def my_score(model):
    return 1.0
""",
    "docs/transformers.md": LITE
    + """
import torch
from dense_ctx_predict import Predictor
model.save_pretrained("runs/mine/model")
Predictor(InContext(model, "ridge").fit("a.jpg", "a_mask.png")).save("my-predictor")
dataset = [{"pixel_values": torch.rand(3, 64, 96), "labels": torch.zeros(64, 96, dtype=torch.long)}] * 4
""",
    "docs/trust.md": "from dense_ctx import Decoder\n",
    "docs/incontext.md": """
import torch
depth = torch.rand(128, 192)
""",
}
# texts that are replaced before a block runs: fewer steps, a network or a data set that is here
INSTEAD = {
    "README.md": {
        "dense-ctx compare runs/dinov2 runs/mine": "dense-ctx compare runs/dinov2",
        "dense-ctx compare runs/mine --paper": "dense-ctx compare --paper",
        "steps=1000": "steps=2",
        "dinov2-s14 mae-b16 --heads maxa linear": "dinov2-s14 --heads linear",
        "--out runs/bench": "--out runs/bench --steps 2 --size 28 28 --image-size 112 112",
    },
    "docs/backbones.md": {"hf:facebook/dinov2-base": "hf:./folder", "model:lila-b14": "model:lila-lite0"},
    "docs/maxa.md": {"score(model,": "score(scored,", "cache_features(model,": "cache_features(scored,"},
    "docs/retrieval.md": {" --paper dip:table1": ""},  # beside whole data sets alone
    "docs/cues.md": {
        " depth:depth-anything-v2-small": "", ', "depth:depth-anything-v2-small"': "", "flow:raft-large": "flow:dis",
    },
}  # fmt: skip
# pages whose blocks take a second or two, in the default run; the others are `slow`
FAST = []
