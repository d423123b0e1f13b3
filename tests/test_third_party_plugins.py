"""The stranger's parts in LILA and DIP, and parts that break their contract: the message names them, others go on."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from third_party_site import MODEL, faulty, lila, pictures, records, spell, stranger, stripes

HOOKS = "from dense_ctx import hookimpl\n"
ONE = HOOKS + "@hookimpl\ndef register_parts(register):\n    register({!r}, {!r}, {!r})\n"
LOAD = """
import json, sys, torch
from dense_ctx import AutoDenseModel, create_backbone
model, fresh = AutoDenseModel.from_pretrained(sys.argv[1]), create_backbone("stranger-blocks")
torch.save({"model": model.state_dict(), "backbone": fresh.state_dict()}, sys.argv[2])
"""


@pytest.fixture(scope="session")
def site():
    return stranger()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    pictures(folder / "one", 5)
    return folder


# ---------------------------------------------------------------------- LILA and DIP


@pytest.mark.slow
def test_lila_initialises_trains_and_centres_its_decoder(site, clips, tmp_path):
    out = tmp_path / "run"
    status, _, error = site.run("train", lila(out, clips, "stranger-mix", start=4, centre=4))
    assert status == 0, error
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [row for row in rows if "losses" in row]
    assert {"features", "stranger-grey"} <= set(steps[-1]["losses"])
    status, _, error = site.run("-c", LOAD, out / "model", tmp_path / "state.pt", module="")
    assert status == 0, error
    state = torch.load(tmp_path / "state.pt")
    weight = state["model"]["decoder.mix.weight"][:, :, 0, 0]
    assert torch.allclose(weight @ weight.T, torch.eye(4), atol=0.02), "principal components, two steps of 1e-3 later"
    assert state["model"]["decoder.offset"].any(), "the features were not centred"
    trained = {name for name, value in state["backbone"].items() if not value.equal(state["model"][f"backbone.{name}"])}
    assert trained == {"deep.bias"}, "the backbone's adapters train, and nothing else of it"


def test_lila_refuses_to_initialise_a_decoder_that_cannot(site, clips, tmp_path):
    line = site.refused("train", lila(tmp_path / "run", clips, "stranger-places", start=4))
    assert "start=4" in line
    assert re.search("(stranger-)?places", line, re.IGNORECASE)
    assert not (tmp_path / "run" / "model").exists()


def test_lila_warns_of_a_decoder_that_it_cannot_centre(site, clips, tmp_path):
    status, _, error = site.run("train", lila(tmp_path / "run", clips, "stranger-places", centre=4))
    assert status == 0, error
    (warning,) = [line for line in error.splitlines() if "centre" in line]
    assert re.search("(stranger-)?places", warning, re.IGNORECASE)
    assert (tmp_path / "run" / "model" / "config.json").is_file()


def test_pseudo_label_with_its_segmenter_and_backbone(site, tmp_path):
    from dense_ctx_dip.task_files import read_pseudo_labels

    images, out = pictures(tmp_path / "images", 6, (32, 48)), tmp_path / "tasks"
    words = spell("pseudo-label", out, images, segmenter="stranger-tiles(rows=2, columns=3)")
    status, _, error = site.run(*words)
    assert status == 0, error
    segments = read_pseudo_labels(out / "segments" / "00000.png.png")
    assert segments.shape == (32, 48)
    assert segments[::16, ::16].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (out / "pairs.jsonl").read_text(encoding="utf-8").count("query") > 0
    line = site.refused(*spell("pseudo-label", tmp_path / "other", images, segmenter="stranger-tails"))
    assert "stranger-tiles" in line, "the closest names come from the registry"


# ---------------------------------------------------------------------- plugins that are skipped

CASES = {
    "undefined-kind": (
        'register("backbone", "faults-blocks", "dense_ctx_stranger.backbone:Blocks")\n'
        '    register("telescope", "faults-zoom", "dense_ctx_stranger.backbone:Blocks")',
        "pass",
        ("telescope", "kind"),
    ),
    "kind-of-lila": ("pass", 'define("cue", "dense_ctx_stranger.greeting:Greeting")', ("'cue'", "plugin 'lila'")),
    "kind-of-the-core": ("pass", 'define("probe", "dense_ctx.interfaces:Probe")', ("'probe'",)),
    "kind-twice": (
        "pass",
        'define("moon", "dense_ctx_stranger.greeting:Greeting")\n'
        '    define("moon", "dense_ctx_stranger.greeting:Plain")',
        ("'moon'", "dense_ctx_stranger.greeting:Greeting"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_plugin_that_breaks_the_rules_of_kinds_is_skipped_whole(tmp_path, case):
    register, define, words = CASES[case]
    define, register = f"def define_kinds(define):\n    {define}\n", f"def register_parts(register):\n    {register}\n"
    site = faulty(tmp_path / "site", f"{HOOKS}@hookimpl\n{define}\n@hookimpl\n{register}")
    status, out, _ = site.run("plugins", "--json")
    document = json.loads(out)
    assert status == 1
    (failure,) = document["failures"]
    assert (failure["plugin"], failure["distribution"], failure["version"]) == ("faults", "dense-ctx-faults", "0.1")
    for word in words:
        assert word in failure["cause"]
    names = {(entry["kind"], entry["name"]) for entry in document["entries"]}
    assert not [name for _, name in names if name.startswith("faults-")]
    assert {("decoder", "upsample"), ("probe", "stranger-mean")} <= names


def test_a_kind_may_be_defined_after_the_plugin_that_uses_it(tmp_path):
    """ "dense-ctx-faults" loads before "dense-ctx-stranger", whose kind its part is of."""
    site = faulty(tmp_path / "site", ONE.format("greeting", "early", "dense_ctx_stranger.greeting:Plain"))
    assert site.run("stranger-hello", "Ada", "--greeting", "early")[:2] == (0, "hello Ada\n")


def test_a_part_that_is_not_of_its_kind_is_refused_by_name(tmp_path):
    site = faulty(tmp_path / "site", ONE.format("greeting", "wrong", "dense_ctx_stranger.cue:Grey"))
    line = site.refused("stranger-hello", "Ada", "--greeting", "wrong")
    for word in ("dense-ctx-faults 0.1", "Grey", "Greeting"):
        assert word in line


# ---------------------------------------------------------------------- parts that break their contract

BREACHES = {
    "scorer.name=faulty-state": ("faulty-state|TensorState", "state"),
    "scorer.name=faulty-merge": ("faulty-merge|OtherState", "state|merge"),
    "scorer.name=faulty-compute": ("faulty-compute|NoHeadline", "share"),
    "data.name=faulty-file": ("stripe 3 is damaged",),
}


@pytest.mark.parametrize("change", BREACHES)
def test_a_breach_of_contract_is_one_line_that_says_whose(tmp_path, change):
    site = faulty(tmp_path / "site")
    line = site.refused(*spell("evaluate", tmp_path / "out", stripes(tmp_path / "data"), change))
    for pattern in BREACHES[change]:
        assert re.search(pattern, line)
    assert not (tmp_path / "out" / "result.json").exists()


OF_FAULTS = "'{}' of plugin 'faults' of dense-ctx-faults 0.1 failed: {}"
MISTAKES = {"faulty-fit": "ZeroDivisionError: a mean of no pixels", "faulty-predict": "KeyError: 'no such class'"}


@pytest.mark.parametrize("probe", MISTAKES)
def test_a_mistake_in_the_code_of_a_probe_names_it_and_its_plugin(tmp_path, probe):
    site, words = faulty(tmp_path / "site"), OF_FAULTS.format(probe, MISTAKES[probe])
    change = [f"probe.name={probe}", "probe.args={}", "train=null"]
    line = site.refused(*spell("evaluate", tmp_path / "out", stripes(tmp_path / "data"), *change))
    assert line == f"error: probe {words}"
    assert not (tmp_path / "out" / "result.json").exists()
    image = pictures(tmp_path / "pictures") / "00000.png"
    Image.fromarray(np.eye(48, 80, dtype=np.uint8)).save(tmp_path / "mask.png")
    pair = ["--support", f"{image}:{tmp_path / 'mask.png'}", "--query", image, "--out", tmp_path / "masks"]
    line = site.refused("predict", "--model", MODEL, "--method", probe, *pair, "--device", "cpu")
    assert line == f"error: probe {words}"
    assert not (tmp_path / "masks").exists()


def test_a_mistake_in_an_objective_fails_its_own_cells_and_is_named(tmp_path):
    site, tasks = faulty(tmp_path / "site"), ["faulty-forward", "stranger-scored"]
    words = spell("bench", tmp_path / "out", stripes(tmp_path / "data"), "--no-cache", tasks=tasks)
    status, _, error = site.run(*words)
    cells = records(tmp_path / "out")
    assert (status, len(cells)) == (1, 4), error
    for (name, _), cell in cells.items():
        assert cell["status"] == ("failed" if name == "faulty-forward" else "done")
        if name == "faulty-forward":
            assert f"objective {OF_FAULTS.format(name, MISTAKES['faulty-fit'])}" in cell["error"]


def test_a_mistake_in_the_code_of_a_data_set_is_not_hidden(tmp_path):
    site = faulty(tmp_path / "site")
    words = spell("evaluate", tmp_path / "out", stripes(tmp_path / "data"), "data.name=faulty-code")
    status, _, error = site.run(*words)
    assert status != 0
    assert "ZeroDivisionError: a stripe of no width" in error
    assert not (tmp_path / "out" / "result.json").exists()


def test_the_check_of_a_data_set_goes_on_after_a_damaged_file(tmp_path):
    site = faulty(tmp_path / "site")
    status, out, error = site.run("datasets", "faulty-file", stripes(tmp_path / "data"))
    assert status == 1, error
    assert "4 read" in out
    assert "stripe 3 is damaged" in out
