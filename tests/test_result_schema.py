"""result.json against its JSON Schema, which is in the package: of a real evaluation, and of changed files."""

import json
from dataclasses import fields
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from evaluation_data import image_folder

from dense_ctx.cli import main
from dense_ctx.evaluate import Result
from dense_ctx.evaluate.result import FORMAT

SCHEMA = json.loads(files("dense_ctx.evaluate").joinpath("result.schema.json").read_text(encoding="utf-8"))
WRONG = {
    "another format": ("format", 1),
    "a score that is text": ("scores", {"mIoU": "0.5"}),
    "a digest that is none": ("digest", "abc"),
    "an unknown key": ("extra", 1),
    "scenes without seeds": ("scenes", {"a": 0.5}),
    "half an image": ("n", {"images": 1.5}),
}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluated")
    image_folder(root / "data")
    words = ["evaluate", "rgb-xy+upsample", "--protocol", "image-folder-linear-grid4-v1", "--data", str(root / "data")]
    assert main([*words, "--out", str(root / "out"), "train.steps=2"]) == 0
    return json.loads((root / "out" / "result.json").read_text(encoding="utf-8"))


def test_the_schema_is_one_and_names_every_field():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    names = {field.name for field in fields(Result)} | {"digest"}
    assert set(SCHEMA["properties"]) == set(SCHEMA["required"]) == names
    assert SCHEMA["properties"]["format"]["const"] == FORMAT


def test_a_result_is_valid(result):
    jsonschema.validate(result, SCHEMA)
    assert result["metric"] in result["scores"]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_changed_file_is_not(result, wrong):
    key, value = WRONG[wrong]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**result, key: value}, SCHEMA)


@pytest.mark.parametrize("key", SCHEMA["required"])
def test_no_key_may_be_missing(result, key):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({name: value for name, value in result.items() if name != key}, SCHEMA)


def test_the_example_of_the_page_validates_it(result, tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (block,) = [part.partition("```")[0] for part in page.split("```python\n") if "jsonschema.validate" in part[:900]]
    (tmp_path / "runs/dinov2-s14-seeds").mkdir(parents=True)
    file = tmp_path / "runs/dinov2-s14-seeds/result.json"
    monkeypatch.chdir(tmp_path)
    file.write_text(json.dumps(result))
    exec(block, {})
    file.write_text(json.dumps({**result, "format": 1}))
    with pytest.raises(jsonschema.ValidationError):
        exec(block, {})
