"""The doors through which files come in: one for pickles, regular files only, formats of pictures."""

import argparse
import ast
import datetime
import os
import pickle
import pydoc
import re
import struct
import subprocess
import time
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dense_ctx.errors import FileError
from dense_ctx.files import read_json, read_pickle, read_text, regular_size, tensor_shapes
from dense_ctx.images import load, open_image
from dense_ctx.persistence.tensors import read_with_metadata

ROOT = Path(__file__).parents[1]
SOURCES = [*ROOT.glob("dense_ctx/**/*.py"), *ROOT.glob("plugins/**/*.py"), *ROOT.glob("benchmarks/**/*.py"),
           *ROOT.glob("examples/**/*.py")]  # fmt: skip
source_tree = pytest.mark.skipif(not (ROOT / "dense_ctx").is_dir(), reason="installed without its source")


def offences(tree):
    """Calls that could run what a file says, and calls of transformers that leave the question open."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"import {name}" for name in names
                        if name.partition(".")[0] in ("pickle", "dill", "joblib", "shelve", "marshal"))  # fmt: skip
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {item.arg: item.value for item in node.keywords}
        last = name.rpartition(".")[2]
        if name in ("torch.load", "torch.jit.load", "torch.hub.load", "eval", "exec", "input"):
            yield name
        if last == "load" and name.split(".")[0] in ("yaml", "np", "numpy"):
            refused = given.get("allow_pickle")
            if name.startswith("yaml") or not (isinstance(refused, ast.Constant) and refused.value is False):
                yield name
        if last in ("full_load", "unsafe_load", "load_all", "full_load_all"):
            yield name
        if last in ("from_pretrained", "from_config") and name.split(".")[0] not in (
            "AutoDenseModel",
            "DenseModel",
            "Predictor",
        ):
            code = given.get("trust_remote_code")
            if not (isinstance(code, ast.Constant) and code.value is False):
                yield name
        if "trust_remote_code" in given and ast.unparse(given["trust_remote_code"]) != "False":
            yield f"{name}(trust_remote_code=...)"
        if "weights_only" in given and ast.unparse(given["weights_only"]) != "True":
            yield f"{name}(weights_only=...)"
        if name in ("os.system", "os.popen", "Image.open") or name.startswith("os.exec"):
            yield name


@source_tree
def test_one_door_for_what_could_run_code():
    places = [(path.relative_to(ROOT).as_posix(), item) for path in SOURCES
             for item in offences(ast.parse(path.read_text(encoding="utf-8")))]  # fmt: skip
    own = [(path, item) for path, item in places if not path.startswith(("benchmarks/", "examples/"))]
    assert sorted(own) == [
        ("dense_ctx/files.py", "import pickle"),  # for its error
        ("dense_ctx/files.py", "torch.load"),
        ("dense_ctx/persistence/pixels.py", "Image.open"),
    ]
    assert {item for path, item in places if path.startswith(("benchmarks/", "examples/"))} <= {"Image.open"}


@pytest.mark.parametrize(
    ("code", "offence"),
    [
        ("torch.load(p, weights_only=True)", "torch.load"),
        ("import pickle", "import pickle"),
        ("from joblib import load", "import joblib"),
        ("np.load(p)", "np.load"),
        ("np.load(p, allow_pickle=True)", "np.load"),
        ("yaml.load(t, Loader=L)", "yaml.load"),
        ("yaml.unsafe_load(t)", "yaml.unsafe_load"),
        ("AutoModel.from_pretrained(r)", "AutoModel.from_pretrained"),
        ("t.AutoConfig.from_pretrained(r, trust_remote_code=True)", "t.AutoConfig.from_pretrained"),
        ("f(weights_only=False)", "f(weights_only=...)"),
        ("os.system(c)", "os.system"),
        ("input()", "input"),
    ],
)
def test_the_search_sees_an_offence(code, offence):
    assert offence in list(offences(ast.parse(code)))


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_the_pickle_door(tmp_path):
    torch.save({"model": {"w": torch.ones(2)}, "epoch": 4}, tmp_path / "a.pth")
    content = read_pickle(tmp_path / "a.pth")
    assert torch.equal(content["model"]["w"], torch.ones(2))
    assert content["epoch"] == 4
    torch.save({"w": Code(str(tmp_path / "ran"))}, tmp_path / "b.pth")
    (tmp_path / "c.pth").write_bytes(pickle.dumps(Code(str(tmp_path / "ran")), protocol=2))
    (tmp_path / "d.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:300])
    for name in ("b.pth", "c.pth"):
        with pytest.raises(ValueError, match="holds more than tensors"):
            read_pickle(tmp_path / name)
    with pytest.raises(ValueError, match=r"\w"):
        read_pickle(tmp_path / "d.pth")
    assert not (tmp_path / "ran").exists()


posix = pytest.mark.skipif(os.name == "nt", reason="pipes and devices are POSIX's")


@posix
@pytest.mark.parametrize("read", [regular_size, read_text, read_json, read_with_metadata, read_pickle, open_image])
def test_only_regular_files_are_opened(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("pipe", "zero", "folder", "loop", "gone", "n" * 5000):
        with pytest.raises(FileError):
            read(tmp_path / name)


def test_bounds_of_texts(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
    with pytest.raises(FileError, match="8 bytes; no more than 7"):
        read_json(tmp_path / "a.json", 7)
    with pytest.raises(FileError, match="no more than 7"):
        read_text(tmp_path / "a.json", 7)
    for text in ("[" * 100_000, "1" * 5000, "{", '{"a": "' + "\udc80" + '"}'):
        (tmp_path / "b.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(FileError, match=r"not JSON|Cannot read"):
            read_json(tmp_path / "b.json")


def test_headers_of_tensors(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.ones(2, 3), "b": torch.ones(())}, path, {"format": "pt"})
    assert tensor_shapes(path) == {"w": (2, 3), "b": ()}
    assert set(read_with_metadata(path)[0]) == {"w", "b"}
    for header in (b"", b"{", b"[]", b'{"a": 1}', b'{"a": {"shape": ["x"]}}', b"[" * 90_000):
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        with pytest.raises(ValueError, match="header"):
            tensor_shapes(path)
    many = ",".join(f'"{n:080d}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for n in range(40_000))
    path.write_bytes(struct.pack("<Q", len(many) + 2) + b"{" + many.encode() + b"}")
    for read in (tensor_shapes, read_with_metadata):
        with pytest.raises(ValueError, match="header would have"):
            read(path)


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
newpath 0 0 moveto 8 8 lineto stroke
%%EOF
"""


def test_no_interpreter_starts_for_a_picture(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(a) or pytest.fail("started"))
    monkeypatch.setattr(subprocess, "check_call", lambda *a, **k: started.append(a))
    (tmp_path / "a.png").write_bytes(EPS)
    (tmp_path / "a.eps").write_bytes(EPS)
    (tmp_path / "a.jpg").write_bytes(b"\x0a\x05\x01\x08" + b"\0" * 200)  # PCX
    for name in ("a.png", "a.eps", "a.jpg"):
        with pytest.raises(FileError, match=r"not an image that is read.*formats: AVIF, BMP"):
            load(tmp_path / name)
    assert not started


def test_a_namespace_of_a_training_script_is_refused_by_name_until_it_is_allowed(tmp_path):
    torch.save({"model": {"w": torch.ones(2)}, "args": argparse.Namespace(lr=1.0)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"argparse\.Namespace\. Where.*--allow argparse\.Namespace`$") as caught:
        read_pickle(tmp_path / "a.pth")
    assert "`import torch, argparse; torch.serialization.add_safe_globals([argparse.Namespace])`" in str(caught.value)
    assert "\n" not in str(caught.value)
    with torch.serialization.safe_globals([argparse.Namespace]):  # what the line does
        assert read_pickle(tmp_path / "a.pth")["args"].lr == 1.0


class Caller:
    """Pickles as a call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Outsider:
    """Of no use to a model."""


@pytest.mark.parametrize("held", [Caller(os.system, "true"), Caller(eval, "1"), Caller(print), Outsider()])
def test_a_pickle_that_runs_code_is_refused_without_a_line_that_would_admit_it(tmp_path, held):
    kind = held.call[0] if isinstance(held, Caller) else Outsider
    torch.save({"w": torch.ones(1), "opt": held}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=rf"runs code, \S*{kind.__name__}: do not open it") as caught:
        read_pickle(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)
    assert not re.search("allow|safe_globals|trust", str(caught.value))


@pytest.mark.parametrize(
    "value", [argparse.Namespace(a=1), Path("a"), datetime.timedelta(1), types.SimpleNamespace(a=1)]
)
def test_plain_data_is_refused_with_the_line_that_admits_it(tmp_path, value):
    torch.save({"w": torch.ones(1), "opt": value}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="could run code: ") as caught:
        read_pickle(tmp_path / "w.pth")
    entry = re.search(r"add_safe_globals\(\[(.*)\]\)`", str(caught.value))[1]
    assert str(caught.value).endswith(f"`dense-ctx convert ... --allow {entry}`")
    with torch.serialization.safe_globals([pydoc.locate(entry)]):  # what the line does
        assert read_pickle(tmp_path / "w.pth")["opt"] == value


@pytest.mark.parametrize("kind", ["itself", "too often"])
def test_a_pickle_whose_containers_never_end_is_refused(kind, tmp_path):
    tree = {"weight": torch.zeros(2)}
    if kind == "itself":
        tree["again"] = [tree]
    else:  # 2 ** 40 entries, in a file of a few hundred bytes
        for _ in range(40):
            tree = {"left": tree, "right": tree}
    torch.save(tree, tmp_path / "a.pth")
    began = time.process_time()
    with pytest.raises(ValueError, match="a container inside itself, or more than 50 levels"):
        read_pickle(tmp_path / "a.pth")
    assert time.process_time() - began < 5
