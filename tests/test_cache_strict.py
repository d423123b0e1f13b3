"""What a cache or a result holds is what it should hold: entries that are missing, left over, or of another shape or
type are refused by name, in files whose checksums and digests are in order.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dense_ctx_dip.task_folder import CENTROIDS, EMBEDDINGS
from dense_ctx_lila.cue_cache import CueCache, plan_cues
from dense_ctx_maxa.target_cache import TargetCache
from dense_ctx_maxa.tasks import create_task
from dense_ctx_probes.text import TextEmbeddings
from PIL import Image
from safetensors import safe_open
from test_artefact_strict import faulty
from test_evaluate_result import made as result_of
from test_feature_cache import SIZE, Pictures, tiny

from dense_ctx.data.cache import CHECKSUM, Shard, write_shard
from dense_ctx.data.features import FeatureCache, fill_cache
from dense_ctx.errors import CheckpointError, ConfigError, DenseCtxError, FileError
from dense_ctx.evaluate import Result
from dense_ctx.evaluate.result import clean
from dense_ctx.files import json_digest, write_json
from dense_ctx.persistence.identity import Identity
from dense_ctx.persistence.tensors import read_sealed, write_sealed

FREE = {  # lengths that a file may choose: features of any number of images, segments or classes, clips of any size
    "embeddings": {("segments", 0), ("segments", 1), ("images", 1)},
    "centroids": {("centroids", 0), ("centroids", 1)},
    "targets": {("target", 0)},  # channels, which the task alone knows
    "cues": {("maps", 3), ("maps", 4)},
    "text": {("vectors", 1)},
    "features": set(),
}


def features(folder):
    images, backbone = Pictures(count=3), tiny()
    fill_cache(backbone, images, folder, SIZE, layers=(0, 1))
    path = folder / "features-00000.safetensors"
    return path, lambda: FeatureCache(folder, backbone, images, SIZE, (0, 1)).tensors(1)


def cues(folder):
    rng = np.random.default_rng(0)
    for index in range(5):
        path = folder / "video" / "clip" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(path)
    plan_cues([folder / "video"], ["flow:dis"], folder / "cache", gaps=(1, 2)).run()
    return (
        folder / "cache/flow@dis/clip.safetensors",
        lambda: CueCache(folder / "cache", ["flow:dis"]).get("clip", 1, 2),
    )


def targets(folder):
    cache = TargetCache(folder, create_task("depth"), Pictures(), (6, 8))
    cache.put(2, torch.rand(1, 6, 8))
    path = next(folder.rglob("*.safetensors"))

    def read():
        target = TargetCache(folder, create_task("depth"), Pictures(), (6, 8)).get(2)
        if target is None:  # to be made again
            Shard(path).require({"target": (torch.float32, ("K", 6, 8))})  # why
            raise FileError("damaged")
        return target

    return path, read


def embeddings(folder):
    content = {"segments": torch.rand(5, 4).half(), "images": torch.rand(2, 3).half(),
               "index": torch.tensor([[0, 2], [1, 3]])}  # fmt: skip
    write_shard(folder / "a.safetensors", content)
    return folder / "a.safetensors", lambda: Shard(folder / "a.safetensors").require(EMBEDDINGS)


def centroids(folder):
    write_shard(folder / "a.safetensors", {"centroids": torch.rand(5, 4)})
    return folder / "a.safetensors", lambda: Shard(folder / "a.safetensors").require(CENTROIDS)


def text(folder):
    path = TextEmbeddings(("a", "b"), torch.rand(2, 4), "m", ("{}",)).save(folder / "a.safetensors")
    return path, lambda: TextEmbeddings.load(path)


KINDS = {function.__name__: function for function in (features, cues, targets, embeddings, centroids, text)}


def content_of(path):
    with safe_open(str(path), framework="pt") as file:
        words = file.metadata()
        return {key: file.get_tensor(key) for key in file.keys() if not key.endswith(CHECKSUM)}, words  # noqa: SIM118


def write_again(path, tensors, words):
    """With checksums that fit."""
    words = {key: value for key, value in words.items() if key not in (CHECKSUM, "sha256")}
    (write_sealed if "classes" in words else write_shard)(path, tensors, words)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_that_does_not_belong_is_refused_by_name(kind, tmp_path):
    path, read = KINDS[kind](tmp_path)
    good, words = content_of(path)
    read()
    cases = 0
    for what, name, tensors in faulty(good):
        if what.startswith("longer") and (name, int(what[-1])) in FREE[kind]:
            continue
        write_again(path, tensors, words)
        with pytest.raises((FileError, CheckpointError)) as refusal:
            read()
        word = "index" if (kind, name) == ("embeddings", "images") and what == "longer in axis 0" else name
        assert word in str(refusal.value), f"{what} {name}: {refusal.value}"  # images and index have one length
        cases += 1
    write_again(path, good, words)
    read()
    print(f"{kind}: {cases} of {cases} refused")
    assert cases >= 4


@pytest.mark.parametrize("kind", KINDS)
def test_words_of_a_header_are_under_its_checksum(kind, tmp_path):
    path, read = KINDS[kind](tmp_path)
    whole = path.read_bytes()
    _, words = content_of(path)
    changes = 0
    for word in (value for key, value in words.items() if key != "format"):
        old = json.dumps(word).encode()  # as it stands in the header
        new = old[:1] + bytes([old[1] ^ 1]) + old[2:]
        if old[1:2] in b"\\{[" or whole.count(b":" + old) + whole.count(b": " + old) != 1:
            continue
        path.write_bytes(whole.replace(old, new, 1))
        with pytest.raises(DenseCtxError):
            read()
        changes += 1
    path.write_bytes(whole)
    read()
    assert changes


@pytest.mark.parametrize("change", ["left over", "no checksum", "short checksum"])
def test_checksums_belong_to_tensors(change, tmp_path):
    path, _ = embeddings(tmp_path)
    whole = path.read_bytes()
    new = {
        "left over": whole.replace(b'"images"', b'"im.crc32"').replace(b'"images.crc32"', b'"im.crc32.crc32"'),
        "no checksum": whole.replace(b"images.crc32", b"images.crc31"),
        "short checksum": whole.replace(b"index.crc32", b"index.crc33"),
    }[change]
    assert new != whole
    path.write_bytes(new)
    with pytest.raises(FileError, match="missing or damaged"):
        Shard(path)


@pytest.mark.parametrize("kind", ["features", "cues", "targets"])
def test_the_settings_of_a_cache_are_under_a_digest(kind, tmp_path):
    """Its notes, too, which are compared with nothing: the unit of a cue, the shapes of features."""
    _, read = KINDS[kind](tmp_path)
    path = next(path for path in tmp_path.rglob("*.json"))
    stored = json.loads(path.read_text())
    for key in stored:
        path.write_text(json.dumps({name: value for name, value in stored.items() if name != key}))
        with pytest.raises(FileError, match="was changed after it was written"):
            read()
        path.write_text(json.dumps({**stored, key: [stored[key]]}))
        with pytest.raises(FileError, match="was changed after it was written"):
            read()
    path.write_text(json.dumps({**stored, "colour": 1}))
    with pytest.raises(FileError, match="was changed after it was written"):
        read()


def wrong_results():
    """(what stands in the message, the change) of results whose digest fits."""
    good = result_of(value=0.5)
    for key in good.to_dict():
        if key not in ("run", "format"):
            yield key, {key: SimpleNamespace}
        yield key, {key: [1]} if key != "parts" else {"pieces": {}}
    yield "scores.miou", {"scores": {"miou": "high"}}
    yield "n.clips", {"n": {"clips": 1.5}}
    yield "per_seed.0", {"per_seed": {"0": 3}}
    yield "per_seed.0.x", {"per_seed": {"0": {"x": [1]}}}
    yield "colour", {"colour": 1}


@pytest.mark.parametrize(("name", "change"), list(wrong_results()))
def test_an_entry_of_a_result_that_does_not_belong_is_refused_by_name(name, change, tmp_path):
    """Missing (the class stands for it), left over, or of another type."""
    values = {**result_of(value=0.5).to_dict(), **change}
    values = {key: value for key, value in values.items() if value is not SimpleNamespace}
    digest = json_digest(clean({key: value for key, value in values.items() if key != "run"}))
    path = write_json(tmp_path / "result.json", {**values, "digest": digest})
    with pytest.raises(ConfigError) as refusal:
        Result.load(path)
    word = "not a result" if name == "protocol_id" and SimpleNamespace in change.values() else name
    assert word in str(refusal.value)


def test_a_result_of_undefined_scores_comes_back(tmp_path):
    result = result_of(value=float("nan"), other=float("nan"))
    again = Result.load(result.save(tmp_path / "result.json"))
    assert again.to_dict() == result.to_dict()
    assert again.value != again.value
    assert again.scores["other"] != again.scores["other"]
    assert again.per_seed["0"][result.metric] != again.per_seed["0"][result.metric]


def test_a_sealed_file_without_its_seal_is_refused(tmp_path):
    path, _ = text(tmp_path)
    tensors, words = content_of(path)
    write_shard(path, tensors, {key: value for key, value in words.items() if key != "sha256"})
    with pytest.raises(CheckpointError, match="no sha256"):
        read_sealed(path)


def test_settings_without_a_digest_are_not_ours(tmp_path):
    write_json(tmp_path / "manifest.json", {"format": 1})
    with pytest.raises(FileError, match="was changed after it was written"):
        Identity(tmp_path / "manifest.json", "cache").check({"format": 1})
