"""Folders as an attacker would write them, of models, contexts and training states: each kind a change to a good one."""

import hashlib
import json
import os
import pickle
import random
import shutil
import struct

LITE, VIT = "efficientnet-lite0", "dinov2-s14"
CONFIG, WEIGHTS, MANIFEST = "config.json", "model.safetensors", "manifest.json"
PROBE, STATE = "probe.json", "state.json"


class Code:
    """A pickle that makes a folder when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def sign(folder):
    """Make the manifest right, so that nothing but the attack itself is wrong. Only regular files are read."""
    names = [name for stem in (CONFIG, WEIGHTS, PROBE, STATE) for name in {stem, stem.replace(".json", ".safetensors")}
             if name != "config.safetensors" and (folder / name).is_file()]  # fmt: skip
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() if (folder / name).stat().st_size < 1 << 26
               else "0" * 64 for name in names}  # fmt: skip
    (folder / MANIFEST).write_text(json.dumps({"sha256": digests}))


def _config(change, file=CONFIG):
    def write(folder):
        data = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(change(data) or data))
        sign(folder)

    return write


def _put(path, value, file=CONFIG):
    def change(data):
        inner = data
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return _config(change, file)


def _bytes(name, content, signed=True):
    def write(folder):
        (folder / name).write_bytes(content)
        if signed:
            sign(folder)

    return write


def _special(name, kind):
    def write(folder):
        path = folder / name
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "hole":
            with path.open("wb") as file:
                file.truncate(20 << 30)
        else:
            path.symlink_to({"zero": "/dev/zero", "random": "/dev/urandom", "loop": path, "gone": "/no/where",
                             "tty": "/dev/tty", "proc": "/proc/self/mem"}[kind])  # fmt: skip
        sign(folder) if name not in (CONFIG, MANIFEST, PROBE, STATE) and kind not in ("hole", "proc") else None

    return write


def _header(header, body=b"", length=None, file=WEIGHTS):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return _bytes(file, struct.pack("<Q", len(text) if length is None else length) + text + body)


def _edit_header(change, hole=0, file=WEIGHTS):
    def write(folder):
        data = (folder / file).read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        header = change(header) or header
        text = json.dumps(header).encode()
        (folder / file).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
        if hole:
            with (folder / file).open("r+b") as stream:
                stream.truncate(hole)
        sign(folder)

    return write


def _nested(levels, left, right, inside="1"):
    return (left * levels + inside + right * levels).encode()


def _hf(files):
    """A transformers folder below, which the configuration names as its backbone."""

    def write(folder):
        inner = folder / "repo"
        inner.mkdir()
        for name, content in files.items():
            content = content(folder) if callable(content) else content
            (inner / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        _put(["backbone"], {"name": f"hf:{inner}", "args": {}})(folder)

    return write


def _chain(levels):
    config = {"format_version": 1, "backbone": {"name": "rgb-xy"}, "decoder": {"name": "upsample"}}
    for _ in range(levels):
        config = {**config, "backbone": {"name": "model:x", "args": {"weights": None, "config": config}}}
    return config["backbone"]


def kinds():
    """Name -> what turns a good folder into a hostile one. The same in every run."""
    table = {}

    def add(name, write):
        assert name not in table, name
        table[name] = write

    # ------------------------------------------------------------------ special files
    for name in (CONFIG, WEIGHTS, MANIFEST):
        for kind in ("pipe", "folder", "hole", "zero", "random", "loop", "gone", "proc"):
            add(f"{name} is {kind}", _special(name, kind))
        add(f"{name} missing", lambda folder, name=name: (folder / name).unlink())
        for label, content in (
            ("empty", b""),
            ("nul", b"\0" * 4096),
            ("text", b"hello"),
            ("utf-16", "{}".encode("utf-16")),
        ):
            add(f"{name} {label}", _bytes(name, content, signed=name != MANIFEST))
    # ------------------------------------------------------------------ JSON
    texts = {
        "lists 100k deep": _nested(100_000, "[", "]"),
        "objects 100k deep": _nested(100_000, '{"a":', "}"),
        "lists 900 deep": _nested(900, "[", "]"),
        "unclosed": b"[" * 100_000,
        "5000 digits": b"1" * 5000,
        "150 MB": b" " * 8 + b'{"a": "' + b"x" * (150 << 20) + b'"}',
        "lists without end": b"[" + b"[]," * (500 << 10) + b"1]",
        "half a MB of lists": b"[" + b"[]," * 170_000 + b"1]",
        "bad utf-8": b'{"a": "\xff\xfe"}',
        "half": b'{"format_version": 1, "backbone": {"na',
    }
    for name in (CONFIG, MANIFEST):
        for label, content in texts.items():
            add(f"{name} {label}", _bytes(name, content, signed=name == CONFIG))
        for value in ("null", "true", "3", '"x"', "[]", "{}", "NaN"):
            add(f"{name} holds {value}", _bytes(name, value.encode(), signed=name == CONFIG))
    digits = '{"format_version": %s, "backbone": "rgb-xy", "decoder": "upsample"}' % ("9" * 5000)
    add("version of 5000 digits", _bytes(CONFIG, digits.encode()))
    # ------------------------------------------------------------------ manifests
    good = {CONFIG: "0" * 64, WEIGHTS: "0" * 64}
    for label, value in {
        "list": [1], "text": "x", "number": 3, "null": None, "empty": {}, "folders": {**good, "folder": ""},
        "outside": {**good, "../secret": ""}, "absolute": {**good, "/etc/passwd": ""}, "zero": {**good, "/dev/zero": ""},
        "wrong digests": good, "numbers": dict.fromkeys(good, 3), "lists": {key: [1] for key in good},
        "nulls": dict.fromkeys(good), "one": {CONFIG: ""}, "long names": {**good, "n" * 5000: ""},
        "many names": {**good, **{str(n): "" for n in range(20_000)}},
    }.items():  # fmt: skip
        add(f"manifest: {label}", _bytes(MANIFEST, json.dumps({"sha256": value}).encode(), signed=False))
    # ------------------------------------------------------------------ values of the wrong type
    wrong = {
        "null": None,
        "true": True,
        "number": 3,
        "huge": 10**40,
        "list": [],
        "lists": [[]],
        "names": ["a"],
        "mapping": {"a": 1},
    }
    for key in ("backbone", "decoder"):
        for label, value in wrong.items():
            add(f"{key} is {label}", _put([key], value))
            if value is not None and label != "number":
                add(f"{key}.name is {label}", _put([key, "name"], value))
            if label not in ("mapping",):
                add(f"{key}.args is {label}", _put([key, "args"], value))
    for label, value in {
        "null": None,
        "true": True,
        "minus": -1,
        "zero": 0,
        "text": "1",
        "float": 1.5,
        "list": [1],
        "99": 99,
    }.items():
        add(f"version is {label}", _put(["format_version"], value))
    for label, value in {"null": None, "text": "x", "number": 3, "lists": [[]], "numbers": [3], "unknown": ["gone"],
                         "long": ["n" * 5000], "many": [f"net.{n}" for n in range(50_000)]}.items():  # fmt: skip
        add(f"backbone_tensors is {label}", _put(["backbone_tensors"], value))
    for label, value in {"number": 3, "list": [], "mapping": {}, "other": "0" * 64}.items():
        add(f"backbone_digest is {label}", _put(["backbone_digest"], value))
    # ------------------------------------------------------------------ names
    names = {
        "5000 letters": "n" * 5000, "nul": "model:a\0b", "empty": "", "space": " ", "line": "a\nb", "dots": "../../x",
        "a repository": "hf:evil/repo", "a repository in lora": "lora:hf:evil/repo", "a model": "model:evil/repo",
        "a model in lora": "lora:model:evil/repo", "hf-hub": "timm:hf-hub:evil/repo", "local-dir": "timm:local-dir:/tmp",
        "lora of lora": "lora:" * 1000 + LITE, "lora of lora, a little": "lora:" * 40 + LITE, "itself": "model:.",
        "etc": "model:/etc", "zero": "model:/dev/zero", "url": "hf:https://evil.example/x", "hf device": "hf:/dev/zero",
        "hf nul": "hf:a\0b", "family": "timm:", "share": "model://evil/share", "long model": "model:" + "n" * 3000,
        "long path": "model:" + "/n" * 1500, "marks": "model:a/b@c?d#e", "unicode": "model:\u202eevil/repo",
        "surrogate": "model:\udcff",
    }  # fmt: skip
    for label, name in names.items():
        add(f"backbone named {label}", _put(["backbone"], {"name": name, "args": {}}))
        if label in ("5000 letters", "empty", "line", "a repository", "unicode"):
            add(f"decoder named {label}", _put(["decoder", "name"], name))
    # ------------------------------------------------------------------ arguments that lead elsewhere
    redirects = {
        "pretrained_cfg_overlay": {"hf_hub_id": "evil/repo"}, "pretrained_cfg": {"file": "/x"}, "model": "vit_base_patch16_224",
        "checkpoint_path": "/x.pth", "features_only": True, "cache_dir": "/x", "hf_hub_id": "evil/repo", "pretrained": True,
        "scriptable": True, "global_pool": "avg", "act_layer": "gelu", "block_fn": "x", "norm_layer": "x", "in_chans": 4,
        "num_classes": 9, "kwargs": {}, "self": 1, "options": {}, "banana": 1, "trust_remote_code": True, "n" * 5000: 1,
    }  # fmt: skip
    for key, value in redirects.items():
        add(f"timm's {key[:30]}", _put(["backbone"], {"name": VIT, "args": {key: value}}))
        inner = {"name": f"lora:{VIT}", "args": {"args": {key: value}}}
        add(f"timm's {key[:30]} in lora", _put(["backbone"], inner))
    for label, value in {
        "zero": "/dev/zero", "folder": "/etc", "url": "http://evil.example/a", "share": "//evil/share/a", "number": 3,
        "list": ["a"], "nul": "a\0b", "long": "n" * 5000, "gone": "/no/where.pth",
    }.items():  # fmt: skip
        add(f"weights from {label}", _put(["backbone"], {"name": VIT, "args": {"weights": value}}))

    def pickled(folder):
        (folder / "w.pth").write_bytes(pickle.dumps(Code(str(folder / "ran")), protocol=2))
        _put(["backbone"], {"name": LITE, "args": {"weights": str(folder / "w.pth")}})(folder)

    add("weights from a pickle that runs", pickled)
    # ------------------------------------------------------------------ sizes
    for key, values in {
        "depth": (100_000, 0, -1, True, "12", 1.5, [1]), "embed_dim": (10**7, 0), "num_heads": (10**9, 0), "img_size": (10**6, [10**6, 1]),
        "patch_size": (0, 10**6), "layers": ([10**9], [0] * 300, []), "mlp_ratio": (1e300, -1), "reg_tokens": (10**8,),
    }.items():  # fmt: skip
        for value in values:
            add(f"{key}={str(value)[:20]}", _put(["backbone"], {"name": VIT, "args": {key: value}}))
    add(
        "a network larger than its home",
        _put(["backbone"], {"name": VIT, "args": {"depth": 128, "embed_dim": 1536, "num_heads": 16}}),
    )
    for key in ("dim", "width"):
        for value in (10**7, 16_000, 0, -1, 1.5, "5", True, [5], {"a": 1}, 10**40):
            add(f"dpt {key}={str(value)[:20]}", _put(["decoder", "args", key], value))
    for label, value in {"huge": [10**7] * 4, "many": [1] * 10_000, "text": "ab", "two": [1, 2]}.items():
        add(f"dpt projections {label}", _put(["decoder", "args", "projections"], value))
    for label, args in {"rank": {"rank": 10**7}, "no rank": {"rank": 0}, "targets": {"targets": ["x" * 5000]},
                        "letters": {"targets": "qkv"}}.items():  # fmt: skip
        add(f"lora {label}", _put(["backbone"], {"name": f"lora:{LITE}", "args": args}))
    for levels in (3, 60):
        add(f"models in models, {levels}", _put(["backbone"], _chain(levels)))
    # ------------------------------------------------------------------ tensors
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    many = (
        b"{" + b",".join(b'"%06d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(400_000)) + b"}"
    )
    headers = {
        "400k tensors": many, "list": b"[]", "half": b'{"a": {"dty', "deep": _nested(50_000, "[", "]"), "none": b"{}",
        "number": b'{"a": 3}', "no shape": {"a": {"dtype": "F32"}}, "other": {"a": one},
    }  # fmt: skip
    for label, header in headers.items():
        add(f"header: {label}", _header(header, b"\0" * 4))
    for label, length in {"2^63": (1 << 63) - 1, "2^40": 1 << 40, "past the end": 100}.items():
        add(f"header of {label} bytes", _header(b"{}", length=length))
    for label, entry in {
        "2^40 numbers": {"shape": [1 << 40]}, "2^200 numbers": {"shape": [1 << 50] * 4}, "negative": {"shape": [-1]},
        "texts": {"shape": ["a"]}, "lists": {"shape": [[1]]}, "1000 axes": {"shape": [1] * 1000}, "dtype": {"dtype": "X9"},
        "integers": {"dtype": "I32"}, "offsets back": {"data_offsets": [4, 0]}, "offsets far": {"data_offsets": [0, 1 << 50]},
        "offsets twice": {"data_offsets": [0, 8]}, "no offsets": {"data_offsets": None}, "true": {"shape": [True, 6]},
    }.items():  # fmt: skip
        add(f"tensor with {label}", _edit_header(lambda header, entry=entry: header["decoder.head.bias"].update(entry)))
    add(
        "tensor left over",
        _edit_header(lambda header: header.update({"decoder.x": {**one, "shape": [0], "data_offsets": [0, 0]}})),
    )
    add("tensor gone", _edit_header(lambda header: header.pop("decoder.head.bias") and None))
    add("metadata that is a list", _edit_header(lambda header: header.update(__metadata__=[1])))
    add("20 GB behind the tensors", _edit_header(lambda header: None, hole=20 << 30))

    def not_finite(folder):
        data = bytearray((folder / WEIGHTS).read_bytes())
        data[-4:] = struct.pack("<f", float("nan"))
        _bytes(WEIGHTS, bytes(data))(folder)

    add("not finite", not_finite)
    # ------------------------------------------------------------------ folders of transformers
    vit = {
        "model_type": "dinov2",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 14,
        "image_size": 28,
    }
    code = b"import os\nos.mkdir('ran')\nclass C: pass\n"
    for label, files in {
        "no files": {}, "no weights": {CONFIG: vit}, "its own code": {CONFIG: {"model_type": "evil", "auto_map": {"AutoConfig": "x.C", "AutoModel": "x.C"}}, "x.py": code},
        "a third repository's code": {CONFIG: {"model_type": "evil", "auto_map": {"AutoConfig": "evil/three--x.C"}}},
        "an adapter alone": {"adapter_config.json": {"base_model_name_or_path": "evil/repo", "peft_type": "LORA"}},
        "an adapter": {CONFIG: vit, "adapter_config.json": {"base_model_name_or_path": "evil/repo", "auto_mapping": {"parent_library": "os"}}},
        "timm's": {CONFIG: {"model_type": "timm_wrapper", "architecture": "hf-hub:evil/repo"}},
        "timm's backbone": {CONFIG: {"model_type": "timm_backbone", "backbone": "hf-hub:evil/repo"}},
        "another backbone": {CONFIG: {"model_type": "detr", "use_pretrained_backbone": True, "backbone": "evil/repo"}},
        "100k layers": {CONFIG: {**vit, "num_hidden_layers": 100_000}}, "10^7 channels": {CONFIG: {**vit, "hidden_size": 10**7}},
        "infinite": {CONFIG: {**vit, "layer_norm_eps": 1e400}}, "lists": {CONFIG: {**vit, "hidden_size": [32] * 1000}},
        "no type": {CONFIG: {}}, "a type that is a list": {CONFIG: {"model_type": ["dinov2"]}}, "deep": {CONFIG: _nested(100_000, "[", "]")},
        "a pickle that runs": {CONFIG: vit, "pytorch_model.bin": lambda folder: pickle.dumps(Code(str(folder / "ran")), protocol=2)},
        "text for numbers": {CONFIG: {**vit, "num_hidden_layers": "two"}}, "a text model": {CONFIG: {"model_type": "bert"}},
    }.items():  # fmt: skip
        add(f"transformers: {label}", _hf(files))
    # ------------------------------------------------------------------ structure, by chance
    generator = random.Random(0)
    values = [
        None,
        True,
        -1,
        10**30,
        1e308,
        "x" * 5000,
        "\0",
        [],
        [[]],
        {},
        {"a": []},
        "/dev/zero",
        "hf:evil/repo",
        ["rgb-xy"],
    ]
    for index in range(60):
        path = generator.choice((["backbone"], ["decoder"], ["format_version"], ["backbone", "args", "layers"],
                                 ["decoder", "args", "dim"], ["decoder", "name"], ["backbone", "name"], ["colour"]))  # fmt: skip
        value = generator.choice([v for v in values if v is not None or len(path) < 3])
        if path[-1] == "layers" and value == []:
            value = [10**9]
        add(f"by chance {index}: {'.'.join(path)}={str(value)[:12]!r}", _put(path, value))
    return table


def _folder_kinds(file, add):
    """What can be wrong with any folder of words and tensors; `file` has the words."""
    tensors = file.replace(".json", ".safetensors")
    for name in (file, tensors, MANIFEST):
        for kind in ("pipe", "folder", "hole", "zero", "loop", "gone"):
            add(f"{name} is {kind}", _special(name, kind))
        add(f"{name} missing", lambda folder, name=name: (folder / name).unlink())
        add(f"{name} empty", _bytes(name, b"", signed=name != MANIFEST))
    texts = {"deep": _nested(100_000, "[", "]"), "half": b'{"a": {"na', "utf-16": "{}".encode("utf-16"), "null": b"null",
             "150 MB": b'{"a": "' + b"x" * (150 << 20) + b'"}', "5000 digits": b"1" * 5000, "list": b"[]", "none": b"{}"}  # fmt: skip
    for label, content in texts.items():
        add(f"{file} {label}", _bytes(file, content))
        add(f"{MANIFEST} {label} of {file}", _bytes(MANIFEST, content, signed=False))
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    many = (
        b"{" + b",".join(b'"%06d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(400_000)) + b"}"
    )
    for label, header in {"400k tensors": many, "list": b"[]", "none": b"{}", "other": {"a": one}}.items():
        add(f"{tensors} header: {label}", _header(header, b"\0" * 4, file=tensors))
    add(f"{tensors} header of 2^40 bytes", _header(b"{}", length=1 << 40, file=tensors))
    for label, entry in {"2^40 numbers": {"shape": [1 << 40]}, "2^200 numbers": {"shape": [1 << 50] * 4}, "negative": {"shape": [-1]},
                         "texts": {"shape": ["a"]}, "dtype": {"dtype": "X9"}, "offsets far": {"data_offsets": [0, 1 << 50]}}.items():  # fmt: skip
        add(f"{tensors} tensor with {label}", _edit_header(
            lambda header, entry=entry: next(v for k, v in header.items() if k != "__metadata__").update(entry), file=tensors))  # fmt: skip
    add(f"{tensors} 20 GB behind", _edit_header(lambda header: None, hole=20 << 30, file=tensors))


def context_kinds():
    """Name -> what turns the folder of a fitted context, a ridge probe's, into a hostile one."""
    table = {}

    def add(name, write):
        assert name not in table, name
        table[name] = write

    _folder_kinds(PROBE, add)
    for key in ("method", "task", "options", "ignore_index", "classes", "channels", "outputs", "model"):
        for label, value in {
            "null": None,
            "huge": 10**40,
            "lists": [[]],
            "names": ["a"],
            "text": "x",
            "minus": -1.5,
        }.items():
            if key != "ignore_index" or label not in ("null", "huge"):  # any number is one
                add(f"context's {key} is {label}", _put([key], value, PROBE))
        add(f"context's {key} missing", _config(lambda data, key=key: data.pop(key) and None, PROBE))
    add("context's colour", _put(["colour"], 1, PROBE))
    for label, name in {"5000 letters": "n" * 5000, "a repository": "hf:evil/repo", "a file": "/etc/passwd", "empty": "",
                        "lines": "a\nb", "a backbone": VIT, "colons": "a:" * 1000}.items():  # fmt: skip
        add(f"method named {label}", _put(["method"], name, PROBE))
    # arguments that name another file or place, that are too much, or of another type
    options = {
        "ridge": {"penalty": ("x", [1e-3], -1, 1e300, True), "bias": ("evil", ["free"]), "mean": (3,), "banana": (1,), "task": ("regression",)},
        "zero-shot": {"embeddings": ("/etc/passwd", "hf:evil/repo", "http://evil.example/a", "/dev/zero", ["random"], 3, "n" * 5000),
                      "class_names": ("ab", ["a\nb"], ["n" * 5000], [3], ["a"] * 1000), "unseen": ([10**9], "0"), "width": (10**9, 0, [64])},
        "retrieval": {"folder": ("/tmp/x", "."), "device": ("cuda", "meta", "/dev/zero"), "memory": (10**9, [1], 0, "all"),
                      "classes": (10**9, -1, [3]), "engine": ("evil", ["torch"]), "dtype": ("float8",), "k": (10**9, [30], 0)},
        "knn": {"memory": (10**9, 10**40, [1]), "k": (10**9, "30"), "stride": (0, 10**9, [1]), "seed": (-1, 10**40, "a")},
        "linear": {"samples": (10**9, [1]), "iterations": (10**9, "60"), "penalty": ([1],)},
        "conv": {"kernel": (10**6 + 1, [1], 3.0), "classes": (10**9,), "updates": (10**9,), "bins": (10**9,), "lr": ([1e-3], "fast"), "reads": ("/etc",)},
        "attention": {"heads": (10**9, [8]), "downscale": (10**9,), "with_norm": ("yes", 1), "replay": (10**9,), "loss": ("evil",)},
        "propagation": {"n_last_frames": (10**9,), "topk": (10**9, [5]), "size_mask_neighborhood": (10**9, "12")},
    }  # fmt: skip
    for method, wrong in options.items():
        for key, values in wrong.items():
            for number, value in enumerate(values):
                change = lambda data, m=method, k=key, v=value: data.update(method=m, options={k: v})  # noqa: E731
                add(f"{method} {key}, {number}", _config(change, PROBE))
    for key in ("trust_remote_code", "n" * 5000, "self", "kind", "name"):
        add(f"ridge takes no {key[:20]}", _put(["options"], {key: 1}, PROBE))
    return table


def state_kinds():
    """Name -> what turns the folder of a training state into a hostile one."""
    table = {}

    def add(name, write):
        assert name not in table, name
        table[name] = write

    _folder_kinds(STATE, add)
    for key in ("step", "seconds", "samples", "config", "frozen", "fresh", "format"):
        for label, value in {"null": None, "lists": [[]], "text": "x" * 5000, "mapping": {"a": 1}}.items():
            if (key, label) != ("frozen", "text"):
                add(f"state's {key} is {label}", _put([key], value, STATE))
    add("state of a later format", _put(["format"], 99, STATE))
    for key, values in {
        "optimizer": ([], "x", {"lr": "fast"}, {"lr": [1]}, {"lr": -1.0}, {"weight_decay": 1e400}, {"evil": 1}),
        "objective": ([], 3, {"name": "lila", "args": {"cue_cache": "/etc"}}, {"name": "evil"}, {"name": ["a"]}, {"name": "sandbox", "args": []},
                      {"name": "sandbox", "args": {"dropout": 0.5}}),
        "model": ([], {"backbone": "hf:evil/repo", "decoder": "dpt"}, "hub/repo", {"backbone": 3}),
        "data": ({"samples": 10**9}, "/etc", "hf:evil/repo"), "steps": ("x", -1, [1]), "seed": (-1, "a"), "batch_size": (0, 10**40, "4"),
        "schedule": ({"warmup": "x"}, []), "validate": ({"protocol": 3},), "average": ({"momentum": 7},), "colour": (1,),
    }.items():  # fmt: skip
        for number, value in enumerate(values):
            add(f"state's config: {key}, {number}", _put(["config", key], value, STATE))
    return table


def make(name, write, good, folder):
    """A copy of the good folder, made hostile."""
    shutil.copytree(good, folder)
    write(folder)
    return folder
