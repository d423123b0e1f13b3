"""The notebooks of examples/notebooks: written without outputs, and run from their first cell to their last."""

import base64
import io
import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from wheel_site import ROOT

FOLDER = ROOT / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LIMIT = 120  # seconds of two idle cores
FIGURES = {"compare_backbones": 1, "strokes_to_masks": 2, "train_an_objective": 1}


def test_there_are_three():
    assert {path.stem for path in NOTEBOOKS} == set(FIGURES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_a_title_and_no_output(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], set(notebook["metadata"])) == (4, {"kernelspec", "language_info"})
    cells = notebook["cells"]
    assert cells[0]["cell_type"] == "markdown"
    assert cells[0]["source"][0].startswith("# ")
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            compile("".join(cell["source"]), path.name, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    began, cpu = time.monotonic(), os.times()
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources=where).execute()
    figures, printed = [], ""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            printed += output.get("text", "")
            if "image/png" in output.get("data", {}):
                figures.append(Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"]))))
    assert len(figures) == FIGURES[path.stem]
    for number, figure in enumerate(figures):
        if folder := os.environ.get("DENSE_CTX_FIGURES"):  # to look at them
            figure.save(Path(folder) / f"{path.stem}-{number}.png")
        assert np.asarray(figure.convert("L")).std() > 20
    spent = sum(os.times()[2:4]) - sum(cpu[2:4])
    print(f"{path.stem}: {time.monotonic() - began:.0f} s, {spent:.0f} s of the processor\n{printed}")
    assert spent < 2 * LIMIT
    check_printed(path.stem, printed)


def check_printed(stem, printed):
    """What a notebook's text says of its numbers holds."""
    if stem == "strokes_to_masks":
        means = [
            np.mean([float(v) for v in re.findall(r" (0\.\d+|1\.0+)", line)])
            for line in printed.splitlines()
            if line.startswith("frame")
        ]
        assert len(means) == 6
        assert sum(means[3:]) > sum(means[:3])  # the second round of strokes helps
    elif stem == "compare_backbones":
        rows = [line.strip("| ").split("|") for line in printed.splitlines() if line.startswith("| ")][2:]
        means = {row[0].strip(): float(row[-1]) for row in rows}
        assert len(means) == 5
        assert max(means, key=means.get) == "four maps"
        assert means["four maps"] > means["colour, place"] + 0.1
    else:
        means = {name: float(value) for name, value in re.findall(r"(\w+)  mean IoU (\S+)", printed)}
        assert means["trained"] > means["untrained"] + 0.3
