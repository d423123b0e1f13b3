"""The verbs evaluate, compare and score: what they print, their statuses, errors of one line."""

import json

import pytest
from dense_ctx_metrics.davis import score_folders
from evaluation_data import camvid, davis2016, same_revision

from dense_ctx import cli
from dense_ctx.evaluate import Result, protocols

MODEL = "rgb-xy+upsample"


@pytest.fixture(autouse=True)
def _revision(monkeypatch):
    same_revision(monkeypatch)


@pytest.fixture
def davis(tmp_path):
    return davis2016(tmp_path / "davis")


def fails(capsys, *words):
    assert cli.main([str(word) for word in words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_evaluate_compare_and_score_in_a_row(davis, tmp_path, capsys):
    runs = []
    for protocol, seeds in (("davis2016-ridge-grid4-v1", ["0"]), ("davis2016-linear-grid4-v1", ["0", "1"])):
        out = tmp_path / protocol
        words = ["evaluate", MODEL, "--protocol", protocol, "--data", davis, "--out", out, "--device", "cpu"]
        words += ["--keep-predictions", "--seeds", *seeds]
        assert cli.main([str(word) for word in words]) == 0
        printed = capsys.readouterr().out
        result = Result.load(out / "result.json")
        assert f"{protocol}  {MODEL}  J&F-Mean {result.value:.4f}" in printed
        assert (" ± " in printed) == (len(seeds) == 2)
        assert str(out / "result.json") in printed
        runs.append((out, result))
    out, result = runs[0]
    assert result.model["name"] == MODEL
    assert cli.main(["compare", str(out), str(out / "result.json")]) == 0  # a folder or the file
    printed = capsys.readouterr().out
    assert printed.count(f"| {MODEL} | {result.value:.4f} ") == 2
    assert "different protocols" in fails(capsys, "compare", *(out for out, _ in runs)).lower()
    truth = davis / "Annotations/480p"
    assert cli.main(["score", str(out / "predictions"), str(truth), "--binary", "--processes", "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == score_folders(truth, out / "predictions", binary=True)
    assert record["J&F-Mean"] == result.value
    assert cli.main(["score", str(out / "predictions"), str(truth), "--binary", "--processes", "1",
                     "--sequences", str(davis / "ImageSets/2016/val.txt")]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert f"{result.value:.4f}" in printed
    assert "3 objects; the first and the last frame are not scored" in printed


def test_several_protocols_have_a_folder_each(davis, tmp_path, capsys):
    words = ["evaluate", MODEL, "--protocol", "davis2016-ridge-grid4-v1", "davis2016-knn-grid8-v1", "--data", davis]
    assert cli.main([str(w) for w in [*words, "--out", tmp_path / "out", "--limit", "1", "grid=6"]]) == 0
    assert "davis2016-ridge-grid4-v1 [grid=6] [limit=1]" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "davis2016-knn-grid8-v1",
        "davis2016-ridge-grid4-v1",
    ]


def test_lists(capsys):
    assert cli.main(["evaluate", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == protocols()
    assert cli.main(["evaluate", "--list", "--protocol", "davis2017-knn-grid8-v1"]) == 0
    assert json.loads(capsys.readouterr().out)["probe"]["name"] == "propagation"
    assert cli.main(["compare", "--tables"]) == 0
    assert "lila:table1" in capsys.readouterr().out
    assert cli.main(["compare", "--paper", "lila:table1"]) == 0
    assert "V-JEPA" in capsys.readouterr().out


def test_evaluate_errors(davis, tmp_path, capsys):
    start = ["evaluate", MODEL, "--device", "cpu", "--out", tmp_path / "out"]
    data = ["--data", davis]
    assert "needs --protocol and --data" in fails(capsys, "evaluate")
    assert "Closest: davis2016-ridge-grid4-v1" in fails(capsys, *start, *data, "--protocol", "davis2016-ridge")
    ridge = ["--protocol", "davis2016-ridge-grid4-v1"]
    assert "unknown key(s) gird (did you mean grid?); known: data" in fails(capsys, *start, *data, *ridge, "gird=3")
    assert "Cannot read the protocol" in fails(capsys, *start, *data, "--protocol", tmp_path / "none.yaml")
    assert "seeds=[1, 1]" in fails(capsys, *start, *data, *ridge, "--seeds", 1, 1)
    assert "limit=0" in fails(capsys, *start, *data, *ridge, "--limit", 0)
    assert "Unknown backbone 'rgb-xyz'" in fails(capsys, "evaluate", "rgb-xyz+upsample", *start[2:], *data, *ridge)
    assert "the brackets do not match at" in fails(
        capsys, "evaluate", "rgb-xy+upsample(layers=[1)", *start[2:], *data, *ridge
    )
    assert ") is missing" in fails(capsys, "evaluate", "rgb-xy+upsample(a=1", *start[2:], *data, *ridge)
    assert "cache='lots' is not a size" in fails(capsys, *start, *data, *ridge, "--cache", "lots")
    assert cli.main([str(w) for w in [*start, "--data", tmp_path / "nowhere", *ridge]]) == 2
    error = capsys.readouterr().err
    assert "DAVIS 2016: " in error
    assert "Expected under the root" in error
    assert "Traceback" not in error


def test_compare_and_score_errors(davis, tmp_path, capsys):
    assert "needs result.json files" in fails(capsys, "compare")
    assert "Cannot read" in fails(capsys, "compare", tmp_path / "none")
    assert "Unknown table" in fails(capsys, "compare", "--paper", "lila:table77")
    truth = davis / "Annotations/480p"
    assert "are the same folder" in fails(capsys, "score", truth, truth, "--processes", 1)
    assert "No folder of predictions" in fails(capsys, "score", tmp_path / "none", truth, "--processes", 1)
    assert "Cannot read the list" in fails(capsys, "score", davis, truth, "--sequences", tmp_path / "none.txt")
    assert "processes=0 is not at least 1" in fails(capsys, "score", davis, truth, "--processes", 0)


def test_interruption_is_status_130_and_the_command_goes_on(tmp_path, capsys, monkeypatch):
    from dense_ctx.evaluate import images as dense

    root = camvid(tmp_path / "camvid")
    words = ["evaluate", MODEL, "--protocol", "camvid-linear-grid4-v1", "--data", root, "--out", tmp_path / "out"]
    words = [str(word) for word in [*words, "--device", "cpu", "train.steps=2", "train.batch=2"]]
    with monkeypatch.context() as patch:
        patch.setattr(dense.ImageEvaluation, "_score", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        assert cli.main(words) == 130
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith("stopped by SIGINT: finished clips and shards of images are in ")
    )
    assert cli.main(words) == 0
    assert (tmp_path / "out/result.json").exists()
