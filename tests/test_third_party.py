"""A distribution that implements what interfaces/ and hookspecs.py document, and nothing else, gets everywhere.

The parts are in third_party/dense_ctx_stranger; each command runs in a process that sees them through entry points.
"""

import json
import re

import numpy as np
import pytest
from PIL import Image
from third_party_site import ROWS, labels, pictures, records, spell, stranger, stripes

NAMES = {
    ("backbone", "stranger-blocks"), ("decoder", "stranger-mix"), ("decoder", "stranger-places"),
    ("objective", "stranger-scored"), ("objective", "stranger-torn-score"), ("objective", "stranger-colours"),
    ("probe", "stranger-mean"), ("probe", "stranger-steps"), ("metric", "stranger-share"),
    ("dataset", "stranger-stripes"), ("protocol", "stranger-stripes-v1"), ("command", "stranger-hello"),
    ("paper", "stranger"),
    ("cue", "stranger-grey"), ("segmenter", "stranger-tiles"), ("task", "stranger-red"),
    ("greeting", "plain"), ("greeting", "loud"),
}  # fmt: skip
CORE = ["data.name=stranger-stripes", "probe.name=stranger-steps", "probe.args={}", "image.size=[16,32]",
        "train.steps=6", "train.batch=2"]  # fmt: skip
CHECKS = {
    "check_backbone": "'stranger-blocks'",
    "check_decoder": "'stranger-mix'",
    "check_decoder ": "'stranger-places'",
    "check_objective": "'stranger-colours', PICTURES",
    "check_objective ": "'stranger-scored', train",
    "check_scored_objective": "'stranger-scored', train, val",
    "check_probe": "'stranger-mean'",
    "check_probe ": "'stranger-steps'",
    "check_metric": "'stranger-share'",
    "check_dataset": "'stranger-stripes', ROOT",
}


@pytest.fixture(scope="session")
def site():
    return stranger()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return stripes(tmp_path_factory.mktemp("stripes"))


# ---------------------------------------------------------------------- plugins, commands


def test_every_part_is_listed_under_its_kind_and_can_be_imported(site):
    status, out, error = site.run("plugins", "--check", "--json")
    document = json.loads(out)
    entries = [entry for entry in document["entries"] if entry["distribution"] == "dense-ctx-stranger"]
    assert {(entry["kind"], entry["name"]) for entry in entries} == NAMES
    assert {(entry["plugin"], entry["version"]) for entry in entries} == {("stranger", "0.7")}
    absent = [entry["name"] for entry in document["unavailable"] if entry["kind"] != "tracker"]  # optional packages
    assert (document["failures"], absent, status) == ([], [], 0), error
    _, table, _ = site.run("plugins")
    rows = {tuple(line.split()[:2]) for line in table.splitlines() if "dense-ctx-stranger" in line}
    assert rows == NAMES


def test_its_command(site):
    status, out, _ = site.run("--help")
    assert status == 0
    assert re.search(r"^ *stranger-hello\s+greet somebody from the stranger$", out, re.MULTILINE)
    _, out, _ = site.run("stranger-hello", "--help")
    assert "Greets somebody with a registered greeting." in out
    assert "Example: dense-ctx stranger-hello Ada" in out
    assert site.run("stranger-hello", "Ada", "--greeting", "loud")[:2] == (0, "hello Ada!\n")
    assert site.run("stranger-hello", "nobody")[:2] == (3, "hello nobody\n")
    assert site.refused("stranger-hello", "7") == "error: 7 is a number; expected a name"
    assert "'lood'" in site.refused("stranger-hello", "Ada", "--greeting", "lood")


def test_its_data_set_is_listed_and_checked(site, data, tmp_path):
    assert "stranger-stripes" in site.run("datasets")[1]
    assert "for each image a line of class ids" in site.run("datasets", "stranger-stripes")[1]
    status, out, error = site.run("datasets", "stranger-stripes", data, "noise=0.1", "--split", "val")
    assert status == 0, error
    assert "16 x 32 (3)" in out
    status, out, _ = site.run("datasets", "stranger-stripes", tmp_path)
    assert status == 1
    assert f"{tmp_path / 'train.txt'} is missing" in out


# ---------------------------------------------------------------------- evaluate


def test_its_protocol_is_listed(site):
    assert "stranger-stripes-v1" in site.run("evaluate", "--list")[1]


def test_evaluate_under_its_protocol(site, data, tmp_path):
    status, out, error = site.run(*spell("evaluate", tmp_path / "out", data, "--keep-predictions"))
    assert status == 0, error
    result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    right = pixels = 0
    for index, row in enumerate(ROWS["val"]):
        truth = labels(row)[2:-2, 2:-2]
        prediction = np.array(Image.open(tmp_path / "out" / "predictions" / f"val-{index}.png"))[2:-2, 2:-2]
        right, pixels = right + int((prediction == truth).sum()), pixels + truth.size
    assert (result["protocol_id"], result["metric"], result["n"]) == ("stranger-stripes-v1", "share", {
        "images": 3, "pixels": pixels})  # fmt: skip
    assert result["value"] == result["scores"]["share"] == pytest.approx(right / pixels)
    assert result["scores"]["wrong"] == pytest.approx(1 - right / pixels)
    assert result["value"] > 0.8
    assert set(result["parts"]) == {"red", "green", "blue"}
    assert f"share {result['value']:.4f}" in out
    assert result["protocol"]["scorer"] == {"name": "stranger-share", "args": {"border": 2}}


def test_its_paper_is_listed_and_a_result_stands_beside_it(site, data, tmp_path):
    assert re.search(r"^stranger:stripes +Nearest means on stripes$", site.run("compare", "--tables")[1], re.MULTILINE)
    assert "a ruler" in site.run("compare", "--paper", "stranger:stripes")[1]
    status, _, error = site.run(*spell("evaluate", tmp_path / "out", data))
    assert status == 0, error
    value = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))["value"]
    status, out, error = site.run("compare", tmp_path / "out", "--paper", "stranger:stripes")
    assert status == 0, error
    (line,) = [line for line in out.splitlines() if "(ours, dense_ctx)" in line]
    assert f"{100 * value:.1f}" in line
    status, out, error = site.run("compare", tmp_path / "out")
    assert (status, "share (higher is better)" in out) == (0, True), error


def test_evaluate_under_a_core_protocol_with_its_probe_and_data(site, data, tmp_path):
    words = spell("evaluate", tmp_path / "out", data, *CORE, protocol="image-folder-linear-grid4-v1")
    status, _, error = site.run(*words)
    assert status == 0, error
    result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert result["metric"] == "miou"
    assert result["value"] > 0.6


@pytest.mark.parametrize("protocol", ["stranger-stripes-v1", "image-folder-linear-grid4-v1"])
def test_a_probe_without_steps_is_refused_before_any_work(site, data, tmp_path, protocol):
    changes = [word for word in CORE if protocol.startswith("image") or word.startswith("probe")]
    changes = [word.replace("stranger-steps", "stranger-mean") for word in changes]
    line = site.refused(*spell("evaluate", tmp_path / "out", data, *changes, protocol=protocol))
    assert re.search("stranger-?mean", line, re.IGNORECASE)
    assert "train=null" in line
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_probe_without_steps_is_fitted_where_the_protocol_trains_none(site, data, tmp_path):
    changes = ["probe.name=stranger-mean", "train=null"]
    status, _, error = site.run(*spell("evaluate", tmp_path / "out", data, *changes))
    assert status == 0, error
    assert json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))["value"] > 0.8


def test_a_headline_that_the_scorer_does_not_compute_is_refused(site, data, tmp_path):
    line = site.refused(*spell("evaluate", tmp_path / "out", data, "metric=miou"))
    assert "miou" in line
    assert "share" in line
    assert "wrong" in line


# ---------------------------------------------------------------------- bench


@pytest.mark.parametrize("more", [["--no-cache"], []])
def test_bench(site, data, tmp_path, more):
    """Without --no-cache a task that does not read features from disk runs all the same, or is refused by name."""
    status, _, error = site.run(*spell("bench", tmp_path, data, *more, tasks=["stranger-scored"]))
    if status == 2 and not more:
        assert "stranger-scored" in error
        assert "--no-cache" in error
        return
    cells = records(tmp_path)
    assert (status, len(cells)) == (0, 2), error
    for cell in cells.values():
        assert (cell["status"], cell["metric"], cell["lower_is_better"], cell["n"]) == ("done", "share", False, 3)
        assert cell["value"] == cell["scores"]["share"] > 0.5
    # Places asked for a place for each cell of the finest map: 16 x 32 pixels of stride 4
    assert cells["stranger-scored", "stranger-places"]["learnt"] == 3 * (6 + 12 + 2) + 3 * 4 * 8
    assert cells["stranger-scored", "stranger-mix"]["learnt"] == 3 * (12 + 1)


def test_bench_with_its_task(site, data, tmp_path):
    """A task is less than an objective: MAXA's brings the data set, the feature cache and the heads' sizes."""
    status, _, error = site.run(*spell("bench", tmp_path, data, tasks=["maxa(task=stranger-red)"]))
    cells = records(tmp_path)
    assert (status, len(cells)) == (0, 2), error
    for cell in cells.values():
        assert (cell["metric"], cell["unit"], cell["lower_is_better"], cell["n"]) == ("right", "%", False, 3)
        assert cell["value"] > 80
    assert "| maxa(task=stranger-red): right (%) ↑ |" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_bench_refuses_an_objective_that_cannot_score_before_any_cell(site, data, tmp_path):
    tasks = ["stranger-scored", "stranger-colours"]
    assert "stranger-colours" in site.refused(*spell("bench", tmp_path, data, "--no-cache", tasks=tasks))
    assert not records(tmp_path)


@pytest.mark.slow
def test_an_error_in_a_score_fails_its_own_cell(site, data, tmp_path):
    tasks = ["stranger-torn-score", "stranger-scored"]
    status, _, error = site.run(*spell("bench", tmp_path, data, "--no-cache", tasks=tasks))
    cells = records(tmp_path)
    assert (status, len(cells)) == (1, 4), error
    assert {name for (name, _), cell in cells.items() if cell["status"] == "failed"} == {"stranger-torn-score"}
    assert all("TypeError" in cell["error"] for cell in cells.values() if cell["status"] == "failed")
    assert "2 of 4 cells failed" in error
    assert (tmp_path / "table.md").is_file()


# ---------------------------------------------------------------------- dense_ctx.testing


@pytest.fixture(scope="module")
def checks(site, data, tmp_path_factory):
    """The clauses that each check verified, or its error, of one process for all."""
    folder = pictures(tmp_path_factory.mktemp("pictures"))
    code = (
        f"import json, torch\nfrom dense_ctx.testing import *\nfrom dense_ctx.data import open_set\n"
        "from dense_ctx_bench.testing import check_scored_objective\n"
        "from dense_ctx_datasets.testing import check_dataset\nfrom dense_ctx_metrics.testing import check_metric\n"
        f"ROOT, PICTURES = {str(data)!r}, {str(folder)!r}\n"
        "train, val = (open_set('stranger-stripes', ROOT, split) for split in ('train', 'val'))\n"
        f"def outcome(check, words):\n    torch.manual_seed(0)\n    try:\n"
        f"        return list(eval(f'{{check.strip()}}({{words}})'))\n"
        f"    except Exception as error:\n        return f'{{type(error).__name__}}: {{error}}'\n"
        f"print(json.dumps({{check: outcome(check, words) for check, words in {CHECKS!r}.items()}}))\n"
    )
    status, out, error = site.run("-c", code, module="")
    assert status == 0, error
    return json.loads(out)


@pytest.mark.parametrize("check", CHECKS)
def test_contract(checks, check):
    assert isinstance(checks[check], list), checks[check]
    assert checks[check]
