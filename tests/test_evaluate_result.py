"""The result file and what is made of several: whole, unforgeable by accident, compared only with its like."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from dense_ctx_benchmarks import papers
from dense_ctx_benchmarks.compare import compare
from dense_ctx_benchmarks.intervals import bootstrap, paired
from evaluation_data import camvid, davis2016, same_revision

from dense_ctx.environment import describe_environment, git_revision
from dense_ctx.errors import ConfigError, FileError, InputError, UnknownNameError
from dense_ctx.evaluate import Result, evaluate, load_protocol
from dense_ctx.evaluate.scorer import Scorer
from dense_ctx.testing import tiny_model


def made(
    protocol="davis2017-linear-v2", name="ours", value=0.5, std=None, overrides=(), limit=None, scenes=None, **scores
):
    """A result with a headline, and with further scores."""
    settings = load_protocol(protocol, overrides)
    data = {"name": settings.data.name, "samples": 30, "names_digest": "abc", "limit": limit}
    return Result(
        protocol_id=settings.resolved_id + (f" [limit={limit}]" if limit else ""),
        metric=settings.metric,
        higher_is_better=Scorer(settings).higher_is_better,
        value=value,
        std=std,
        n={"clips": 30},
        scores={settings.metric: value, **scores},
        per_seed={"0": {settings.metric: value}},
        scenes=scenes or {"dog": {"0": value}},
        parts={},
        protocol=settings.to_dict(),
        protocol_digest=settings.digest(),
        model={"name": name},
        data=data,
        environment={},
        run={"seconds": 12.5},
    )


def test_round_trip(tmp_path):
    result = made(value=0.1 + 0.2, parts_nan=0.25)
    again = Result.load(result.save(tmp_path / "deep/result.json"))
    assert again.to_dict() == result.to_dict()
    assert again.digest() == result.digest()
    assert again.value == 0.1 + 0.2  # to the last bit


def test_a_real_result_says_what_it_needs_to_say(tmp_path, monkeypatch):
    same_revision(monkeypatch)
    root = camvid(tmp_path / "data")
    model = tiny_model()
    settings = ["train.steps=2", "train.batch=2"]
    result = evaluate(model, "camvid-linear-grid4-v1", root, tmp_path / "out", name="tiny", overrides=settings)
    read = Result.load(tmp_path / "out/result.json")
    assert read.to_dict() == result.to_dict()
    assert read.model["name"] == "tiny"
    assert read.model["parameters"] == sum(p.numel() for p in model.parameters())
    assert read.model["dim"] == 5
    assert read.protocol == load_protocol("camvid-linear-grid4-v1", settings).to_dict()
    assert read.data["name"] == "camvid"
    assert read.data["split"] == "val"
    assert set(read.environment["versions"]) >= {"python", "torch", "numpy", "dense-ctx"}
    assert read.environment["git"] == "0000000"
    assert set(read.run) == {"command", "date", "seconds", "processes", "threads", "peak_memory_mb"}
    assert len(read.parts) == 11
    assert set(read.scenes) == {"0000", "0001", "0002", "0003"}
    assert all(0 <= scene["0"] <= 1 for scene in read.scenes.values())
    assert None in read.parts.values()  # classes that occur nowhere have no IoU


def test_the_score_of_a_scene_is_that_of_the_scene_alone(tmp_path):
    model, both, alone = tiny_model(), tmp_path / "both", tmp_path / "alone"
    options = {"overrides": ["grid=6"], "seeds": [0, 1]}
    davis2016(both, clips=("camel", "goat"))
    davis2016(alone, clips=("camel",))
    whole = evaluate(model, "davis2016-linear-grid4-v1", both, tmp_path / "out", **options)
    one = evaluate(model, "davis2016-linear-grid4-v1", alone, tmp_path / "one", **options)
    assert list(whole.scenes) == ["camel", "goat"]
    assert whole.scenes["camel"] == {seed: scores["J&F-Mean"] for seed, scores in one.per_seed.items()}
    assert len(set(whole.scenes["goat"].values()) | set(whole.scenes["camel"].values())) > 1
    root = camvid(tmp_path / "camvid", val=3)
    settings = ["probe.args.iterations=3"]
    whole = evaluate(model, "camvid-linear-grid4-v2", root, tmp_path / "images", overrides=settings)
    for name in ("0001", "0002"):
        (root / f"val/images/{name}.png").unlink()
        (root / f"val/labels/{name}.png").unlink()
    one = evaluate(model, "camvid-linear-grid4-v2", root, tmp_path / "image", overrides=settings)
    assert whole.scenes["0000"] == {"0": one.value}
    assert whole.value not in whole.scenes["0000"].values()


def test_run_is_no_part_of_the_digest_and_all_else_is():
    result = made()
    assert replace(result, run={"seconds": 99}).digest() == result.digest()
    for changed in ({"value": 0.51}, {"model": {"name": "theirs"}}, {"environment": {"x": 1}}, {"std": 0.1}):
        assert replace(result, **changed).digest() != result.digest()


def test_a_changed_file_is_refused(tmp_path):
    path = made().save(tmp_path / "result.json")
    data = json.loads(path.read_text())
    for key, value in (("value", 0.9), ("protocol_id", "davis2016-knn-grid8-v1"), ("n", {"clips": 3})):
        path.write_text(json.dumps({**data, key: value}))
        with pytest.raises(ConfigError, match="was changed after it was written"):
            Result.load(path)
    path.write_text(json.dumps({**data, "run": {"seconds": 1}}))  # times are not vouched for
    Result.load(path)


def test_files_that_are_no_result(tmp_path):
    path = tmp_path / "result.json"
    with pytest.raises(FileError, match="Cannot read"):
        Result.load(path)
    path.write_text("{")
    with pytest.raises(FileError, match="is not JSON"):
        Result.load(path)
    for text in ("[]", "{}", '{"a": 1}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match="is not a result of `dense-ctx evaluate`"):
            Result.load(path)
    data = {**made().to_dict(), "digest": "x"}
    for form in (3, "new", None):
        path.write_text(json.dumps({**data, "format": form}))
        with pytest.raises(ConfigError, match=r"has format .*; this dense_ctx reads 2"):
            Result.load(path)
    path.write_text(json.dumps({key: value for key, value in {**data, "format": 1}.items() if key != "scenes"}))
    with pytest.raises(ConfigError, match=r"has format 1, without each scene's scores: evaluate again, into another"):
        Result.load(path)
    path.write_text(json.dumps({**data, "surprise": 1}))
    with pytest.raises(ConfigError, match=r"unknown key\(s\) surprise"):
        Result.load(path)
    data.pop("n")
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="missing"):
        Result.load(path)


def test_the_environment_names_the_revision():
    environment = describe_environment("cpu")
    assert environment["device"] == "cpu"
    revision = git_revision()
    assert revision is None or len(revision.partition("+")[0]) == 40


# ---------------------------------------------------------------------- compare


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_best_comes_first():
    results = [made(name=name, value=value) for name, value in (("a", 0.3), ("b", 0.7), ("c", 0.5))]
    text = compare(results)
    assert text.startswith("davis2017-linear-v2: J&F-Mean (higher is better); 30 clips")
    assert [row[0] for row in rows(text)[2:]] == ["b", "c", "a"]
    depths = [made("nyuv2-depth-linear-grid4-v1", name, value) for name, value in (("a", 0.3), ("b", 0.7), ("c", 0.5))]
    text = compare(depths)
    assert "lower is better" in text
    assert [row[0] for row in rows(text)[2:]] == ["a", "c", "b"]


def test_spread_and_missing_values_are_shown():
    many = replace(made(value=0.61234, std=0.0123), per_seed={str(i): {} for i in range(3)})
    row = rows(compare([many]))[2]
    assert row[1] == "0.6123 ± 0.0123"
    assert row[2:] == ["3", "12.5"]


def scenes(*rows):
    """Scores of scenes, a row each, of seeds 0, 1 ..."""
    return {f"clip{n}": {str(seed): value for seed, value in enumerate(row)} for n, row in enumerate(rows)}


def test_differences_are_paired_scene_by_scene():
    """Scenes differ by much more than the models do; pairs do not see that."""
    base = [0.1 * n for n in range(10)]
    first = made(name="a", value=0.45, scenes=scenes(*([x] for x in base)))
    better = made(name="b", value=0.5, scenes=scenes(*([x + 0.05 + 0.01 * (-1) ** n] for n, x in enumerate(base))))
    head, _, *lines = rows(compare([first, better]))
    assert head[2] == "minus a, by scene (95 %)"
    cells = {line[0]: line[2] for line in lines}
    assert cells["a"] == ""
    mean, low, high = (float(x) for x in re.fullmatch(r"(\S+) \((\S+) to (\S+)\)", cells["b"]).groups())
    assert mean == 0.05
    assert 0.04 < low < 0.05 < high < 0.06
    text = compare([first, better])
    assert "paired bootstrap over 10 scene(s) and 1 seed(s) that both results have a score of. They are" in text
    assert [line[2] for line in rows(compare([better, first]))[2:]] == ["", f"-0.0500 (-{high:.4f} to -{low:.4f})"]


def test_intervals_widen_with_the_spread_of_scenes_and_of_seeds():
    rng = np.random.default_rng(0)
    scene, seed = rng.normal(0, 0.1, (40, 1)), np.linspace(-0.1, 0.1, 8)[None]
    sizes = {}
    for name, table in (("none", 0 * scene + 0 * seed), ("scenes", scene + 0 * seed), ("seeds", 0 * scene + seed)):
        interval = bootstrap(table)
        sizes[name] = interval.high - interval.low
    both = bootstrap(scene + seed)
    assert sizes["none"] == 0
    assert sizes["scenes"] == pytest.approx(2 * 1.96 * scene.std() / 40**0.5, rel=0.1)  # of the normal distribution
    assert sizes["seeds"] == pytest.approx(2 * 1.96 * seed.std() / 8**0.5, rel=0.1)
    assert both.high - both.low > max(sizes.values())
    assert (both.scenes, both.seeds) == (40, 8)


def test_undefined_scenes_other_seeds_and_single_scenes():
    nan = float("nan")
    first = scenes([0.1, 0.2], [0.3, nan], [0.5, 0.6])
    assert paired(first, scenes([0.0, 0.1], [0.0, 0.0], [0.3, 0.2])) == (
        pytest.approx(0.2), pytest.approx(0.1), pytest.approx(0.4), 2, 2,
    )  # fmt: skip
    other = {"clip0": {"7": 0.05}, "clip2": {"7": 0.15}, "clip9": {"7": 1.0}}
    interval = paired(first, other)
    assert (interval.mean, interval.scenes, interval.seeds) == (pytest.approx(0.25), 2, 1)
    assert paired(scenes([0.5]), scenes([0.25])).text() == "+0.2500"
    assert paired(first, {"other": {"0": 1.0}}) is None
    assert paired({}, {}) is None


def test_a_scene_without_one_of_the_seeds_is_left_out():
    """What is compared is said: pairs of the seeds and scenes that both have, no interval of a single pair."""
    whole, other = scenes([0.1, 0.2], [0.3, 0.4], [0.5, 0.6]), scenes([0.0, 0.0], [0.0, 0.0], [0.0, 0.0])
    for number, name in enumerate(whole):
        less = {**whole, name: {"0": 0.9}}
        left = np.delete([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], number, 0)
        for found, sign in ((paired(less, other), 1), (paired(other, less), -1)):
            assert (found.mean, found.scenes, found.seeds) == (pytest.approx(sign * left.mean()), 2, 2)
        unlike = {name: {"7": 0.0} for name in whole}
        assert (paired(less, unlike).mean, paired(less, unlike).scenes) == (pytest.approx(left.mean()), 2)
    one = compare([made(name="a"), made(name="b", value=0.6)])
    assert rows(one)[2][2] == "+0.1000"
    assert "Interval" not in one
    many = {f"clip{n}": {"0": 0.01 * n} for n in range(20)}
    assert compare([made(scenes=many), made(scenes=many)]).endswith("that both results have a score of.")


def test_a_score_that_does_not_exist_is_a_dash_and_comes_last(tmp_path):
    """No unseen class occurs in a limited run: there is no harmonic mean, in the file neither."""
    none = made("coco-stuff-zeroshot-v2", "none", float("nan"), seen=0.4, unseen=float("nan"))
    path = none.save(tmp_path / "result.json")
    assert json.loads(path.read_text())["value"] is None
    text = compare([Result.load(path), made("coco-stuff-zeroshot-v2", "some", 0.3, seen=0.4, unseen=0.25)])
    assert [row[0] for row in rows(text)[2:]] == ["some", "none"]
    assert rows(text)[3][1:5] == ["-", "", "0.4000", "-"]
    assert rows(text)[2][2] == "-"  # nothing to subtract from
    assert "-" in compare([none], "lila:table3")


def test_other_protocols_settings_and_data_are_refused():
    first = made()
    with pytest.raises(InputError, match="ours was measured under davis2017-linear-v2, b under davis2017-knn-v2"):
        compare([first, made("davis2017-knn-v2", "b")])
    with pytest.raises(InputError, match=r"under davis2017-linear-v2 \[grid=8\]"):
        compare([first, made(name="b", overrides=["grid=8"])])
    with pytest.raises(InputError, match="of another version of its settings"):
        compare([first, replace(made(name="b"), protocol_digest="f00")])
    with pytest.raises(
        InputError, match="Different data: ours was measured on 30 samples of davis2017, b on 30 others"
    ):
        compare([first, replace(made(name="b"), data={**first.data, "names_digest": "xyz"})])
    one, two = (replace(first, data={**first.data, "training_names_digest": digest}) for digest in ("abc", "xyz"))
    with pytest.raises(InputError, match="trained on different images of davis2017"):
        compare([one, two])
    with pytest.raises(InputError, match="No result"):
        compare([])


# ---------------------------------------------------------------------- beside a paper


def test_a_result_stands_in_its_column_of_the_paper():
    linear = made(value=0.623, **{"J-Mean": 0.6, "F-Mean": 0.646, "J-Recall": 0.9})
    text = compare([linear], "lila:table1")
    head, last = rows(text)[0], rows(text)[-1]
    assert last[0] == "ours (ours, dense_ctx)"
    columns = dict(zip([cell.split()[0] for cell in head], last, strict=True))
    assert (columns["linear_jf"], columns["linear_j"], columns["linear_f"]) == ("62.3", "60.0", "64.6")
    assert columns["knn_jf"] == columns["knn_j"] == "-"
    assert len(rows(text)) == 2 + len(papers.table("lila:table1").rows) + 1


def test_results_of_two_protocols_of_one_model_share_a_row():
    both = [made(value=0.5), made("davis2017-knn-v2", value=0.4), made(name="other", value=0.1)]
    text = compare(both, "lila:table1")
    table = {row[0]: row for row in rows(text)[2:]}
    assert "50.0" in table["ours (ours, dense_ctx)"]
    assert "40.0" in table["ours (ours, dense_ctx)"]
    assert "10.0" in table["other (ours, dense_ctx)"]


def test_limited_and_changed_results_stand_in_no_paper():
    for result in (made(limit=2), made(overrides=["grid=8"]), made("camvid-linear-grid4-v1")):
        with pytest.raises(InputError, match=r"has no column measured by .*A limit or an override"):
            compare([result], "lila:table1")
    with pytest.raises(InputError, match=r"limit=2"):
        compare([made(), made(limit=2)], "lila:table1")
    with pytest.raises(UnknownNameError, match="Unknown table"):
        compare([made()], "lila:table99")


def test_settings_under_a_papers_name_but_not_its_own_stand_in_no_paper():
    """Someone's own YAML, or another version of ours, may carry the id of a shipped protocol."""
    other = made()
    other = replace(other, protocol_digest="f00")
    with pytest.raises(InputError, match="other settings than the davis2017-linear-v2 that is shipped"):
        compare([other], "lila:table1")
