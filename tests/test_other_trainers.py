"""Maps and models in other people's loops: a plain one, Lightning, a decoder of segmentation_models.pytorch."""

import re
import subprocess
import sys

import pytest
from client_environments import client_python
from wheel_site import ROOT

UNET = """
import torch
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from dense_ctx import AutoDenseModel

torch.manual_seed(0)
model = AutoDenseModel.from_parts("efficientnet-lite0", backbone_args={"layers": [0, 1, 2, 3, 4]})
assert tuple(model.backbone.strides) == (2, 4, 8, 16, 32)
decoder = UnetDecoder((3, *model.backbone.dims), (32, 16, 8, 8, 2), n_blocks=5)
images = torch.rand(2, 3, 64, 96)
labels = (images.mean(1) > 0.5).long()
maps, padded = model.encode(images)
optimizer = torch.optim.AdamW(decoder.parameters(), lr=0.01)
losses = []
for _ in range(20):
    scores = decoder([padded, *maps.maps])
    assert scores.shape == (2, 2, 64, 96)
    loss = torch.nn.functional.cross_entropy(scores, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert not any(parameter.grad is not None for parameter in model.parameters())
print(losses[0], losses[-1])
"""


def losses(output):
    return [float(value) for value in re.search(r"loss (\S+) -> ([\d.]+)", output).groups()]


def run(python, *words, folder):
    done = subprocess.run([python, *map(str, words)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_plain_loop(tmp_path):
    first, last = losses(run(sys.executable, ROOT / "examples" / "head_plain.py", "--quick", folder=tmp_path))
    assert last < first


@pytest.mark.clients
def test_lightning(tmp_path):
    python = client_python("lightning", "lightning==2.6.6", with_dense_ctx=True)
    first, last = losses(run(python, ROOT / "examples" / "head_lightning.py", "--quick", folder=tmp_path))
    assert last < first
    assert (tmp_path / "runs" / "lightning" / "model" / "config.json").is_file()


@pytest.mark.clients
def test_a_decoder_of_segmentation_models(tmp_path):
    python = client_python("smp", "segmentation-models-pytorch==0.6.0", with_dense_ctx=True)
    first, last = map(float, run(python, "-c", UNET, folder=tmp_path).split())
    assert last < 0.9 * first
