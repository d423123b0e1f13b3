"""Static: parts are asked for nothing but what their interface names."""

import ast
from pathlib import Path

import dense_ctx

ROOT = Path(dense_ctx.__file__).parent.parent
REFLECTION = {"getattr", "hasattr", "setattr", "vars", "dir", "getattr_static", "getmembers", "signature",
              "getfullargspec", "get_type_hints", "methodcaller", "attrgetter"}  # fmt: skip
DUNDERS = {"__mro__", "__dict__", "__code__", "__bases__", "__subclasses__", "__annotations__", "__abstractmethods__"}
PARTS = {
    "backbone",
    "decoder",
    "objective",
    "scored",
    "probe",
    "metric",
    "cue",
    "segmenter",
    "head",
    "task",
    "registry",
}
# "file:function" -> why what is asked there is no part's, or is one that the interface names
ALLOWED = {
    "dense_ctx/__init__.py:__getattr__": "a public name is an attribute of its module",
    "dense_ctx/config/reader.py:typed": "the fields of a dataclass",
    "dense_ctx/config/reader.py:check_arguments": "the types that a signature names",
    "dense_ctx/data/open.py:list_with": "options are the keywords of `open`, as DatasetReader says",
    "dense_ctx/gateway.py:translated": "errors of other libraries by their class's module, so that none is imported",
    "dense_ctx/gateway.py:_fault": "the arguments of a call, by the function's signature",
    "dense_ctx/gateway.py:_wrong": "the annotations of a function",
    "dense_ctx/gateway.py:_hint": "the names that an annotation may use",
    "dense_ctx/persistence/file_args.py:check_file_args": "`file_args` of a part that may be a function",
    "dense_ctx/persistence/file_args.py:file_args_problem": "the same, against the part's signature",
    "plugins/dense_ctx_backbones/adapters.py:described": "what peft leaves on a network that it has adapted",
    "plugins/dense_ctx_backbones/hf_files.py:read_config": "a configuration of transformers",
    "plugins/dense_ctx_export/paddings.py:constant_paddings": "a child module of a network, by the name it has there",
    "plugins/dense_ctx_measures/boundary.py:boundary_quality": "a sample of any iterable, refused by number",
    "dense_ctx/persistence/transfer.py:_is": "errors of the Hub's client by name, so that importing it can wait",
    "dense_ctx/persistence/transfer.py:_busy": "the same: a response, where an error of the client carries one",
    "dense_ctx/evaluate/scorer.py:__init__": "a Metric's two attributes, refused by name where they are missing",
    "dense_ctx/evaluate/scorer.py:_args": "the fields of Scoring, a dataclass",
    "plugins/dense_ctx_metrics/segmentation.py:compute": "the fields of Segmentation, a dataclass",
    "dense_ctx/commands/allocator.py:reuse_freed_memory": "a function of the C library, which others have not",
    "dense_ctx/numerics.py:float32_settings": "settings of PyTorch, by their names",
    "dense_ctx/numerics.py:_set_float32": "the same",
    "dense_ctx/device.py:check_alike": "a property of a GPU, which PyTorch may not have",
    "plugins/dense_ctx_lila/fused.py:_widest": "the same: not for AMD's",
    "dense_ctx/registry.py:_attribute": "a target is an attribute of its module",
    "plugins/dense_ctx_datasets/testing.py:_options": "options are the keywords of `open`, as DatasetReader says",
    "plugins/dense_ctx_metrics/testing.py:_attributes": "a contract check: what it looks for may be missing",
    "plugins/dense_ctx_benchmarks/papers.py:table": "a file that is no paper's",
    "plugins/dense_ctx_benchmarks/passes.py:module": "what torch itself keeps in a module",
    "plugins/dense_ctx_benchmarks/passes.py:backbone_digest": "all that a module holds is in its digest",
    "plugins/dense_ctx_measures/similarity.py:extract": "any callable may be measured, as its docstring says",
    "dense_ctx/plugins.py:_check_module": "a plugin is a module; its hooks are optional",
    "dense_ctx/train/data.py:__getstate__": "what pickling takes of a module: its attributes without its weights",
    "dense_ctx/train/config.py:__post_init__": "numbers of a dataclass, by their keys",
    "dense_ctx/train/loop.py:train": "a private method of torch's loader",
    "dense_ctx/registry.py:bind": "the arguments that a user gave are compared with what the target takes",
    "plugins/dense_ctx_backbones/convert.py:to_timm": "a network of timm",
    "plugins/dense_ctx_backbones/convert_dinov3.py:checked_dinov3": "a network of timm",
    "plugins/dense_ctx_backbones/convert_hf.py:hf_to_timm": "a network of timm",
    "plugins/dense_ctx_backbones/hf_backbone.py:__init__": "a configuration of transformers",
    "plugins/dense_ctx_backbones/hf_backbone.py:_configure": "a configuration of transformers",
    "plugins/dense_ctx_backbones/hf_backbone.py:_final_norm": "a network of transformers",
    "plugins/dense_ctx_backbones/hiera.py:_geometry": "a network of timm",
    "plugins/dense_ctx_backbones/hiera.py:forward": "a network of timm",
    "plugins/dense_ctx_backbones/timm_backbone.py:_configure": "a network of timm",
    "plugins/dense_ctx_dip/diffcut.py:_condition": "a configuration of diffusers",
    "dense_ctx/files.py:tensor_shapes": "what a damaged header is, in place of a mapping",
    "dense_ctx/persistence/pixels.py:_check_tiff": "an image of Pillow: the tags of a TIFF",
    "dense_ctx/persistence/pixels.py:_from_pil": "an image of Pillow: the file it was opened from, if it was",
    "dense_ctx/data/video.py:upright": "a frame of PyAV, whose older versions know no rotation",
    "plugins/dense_ctx_lila/cue_cache/manifest.py:identity": "the defaults of a cue's arguments decide its maps",
    "plugins/dense_ctx_lila/cues/dis.py:flow": "a constant of OpenCV",
    "plugins/dense_ctx_labels/zarr_metadata.py:node_of": "what damaged metadata is, in place of a mapping",
    "plugins/dense_ctx_labels/zarr_metadata.py:array_of": "the same",
    "plugins/dense_ctx_labels/zarr_metadata.py:classes_of": "the same",
}


def findings(path: Path) -> list[tuple[str, int, str]]:
    """(function, line, code) of each place in a file that asks an object for what its class may not have."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):  # inner ones come later and stand
            functions.update(dict.fromkeys(range(node.lineno, (node.end_lineno or 0) + 1), node.name))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    modules = {alias.asname or alias.name.split(".")[0] for node in imports for alias in node.names}
    errors = {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name}
    harmless = modules | errors | {"self", "args", "error"}  # modules, errors, oneself, what argparse gives
    return [
        (functions.get(node.lineno, "module"), node.lineno, ast.unparse(node).splitlines()[0])
        for node in ast.walk(tree)
        if isinstance(node, (ast.expr, ast.ExceptHandler, ast.AnnAssign)) and _asks(node, harmless)
    ]


def _asks(node: ast.AST, harmless: set[str]) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in DUNDERS and _root(node.value) not in harmless
    if isinstance(node, ast.ExceptHandler):
        types = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        return any(isinstance(one, ast.Name) and one.id == "AttributeError" for one in types)
    if isinstance(node, ast.AnnAssign):
        words = {getattr(word, "id", getattr(word, "attr", "")) for word in ast.walk(node.value or node.target)}
        return ast.unparse(node.annotation) == "Any" and bool(words & PARTS)
    if not isinstance(node, ast.Call):
        return False
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    if name not in REFLECTION or (name == "vars" and not node.args):
        return False
    if isinstance(node.func, ast.Attribute) and _root(node.func) not in ("inspect", "operator", "typing"):
        return False  # a method of that name
    asked = ast.unparse(node.args[1]) if len(node.args) > 1 else ""
    return bool(node.args) and _root(node.args[0]) not in harmless and asked not in ("'__name__'", "'__file__'")


def _root(node: ast.AST) -> str:
    """The first name of a.b.c."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def test_no_member_is_asked_for_that_no_interface_names():
    """Search dense_ctx/ and plugins/ for code that asks a part for more than its base class has.

    Searched for: getattr, hasattr, setattr, vars(x), dir, inspect.signature and its like, operator.attrgetter and
    methodcaller; __mro__, __dict__, __code__, __bases__ and other insides of a class; `except AttributeError`; and a
    name annotated `Any` that is given a part (`scored: Any = objective`), which hides from mypy what is asked of it.
    Left out: what is asked of an imported module (`getattr(torch, dtype)`), of an exception, of `self`, of argparse's
    `args`; and `__name__` for a message. Not searched for: a member that an interface lacks but mypy sees, as mypy
    refuses it. Every other place is a part's own, and goes, or stands in ALLOWED with a reason.
    """
    places: dict[str, list[str]] = {}
    for path in sorted([*(ROOT / "dense_ctx").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]):
        for function, line, code in findings(path):
            key = f"{path.relative_to(ROOT).as_posix()}:{function}"
            places.setdefault(key, []).append(f"{key}:{line}: {code}")
    wrong = [line for key, lines in places.items() if key not in ALLOWED for line in lines]
    assert not wrong, f"{len(wrong)} places that are not in ALLOWED:\n" + "\n".join(wrong)
    assert not set(ALLOWED) - set(places), "places in ALLOWED that are gone"


def test_the_search_sees_each_form(tmp_path):
    lines = [
        "import inspect, torch",
        "def f(part, objective, args):",
        "    hasattr(part.decoder, 'shift'), getattr(part, 'unit', ''), inspect.signature(part)",
        "    [vars(one) for one in part.__mro__]",
        "    scored: Any = objective",
        "    try: part.score()",
        "    except (AttributeError, KeyError) as error: getattr(error, 'name', None)",
        "    getattr(torch, 'float32'), getattr(args, 'x'), getattr(part, '__name__', ''), part.signature(1)",
    ]
    (tmp_path / "asks.py").write_text("\n".join(lines), encoding="utf-8")
    assert [line for _, line, _ in sorted(findings(tmp_path / "asks.py"))] == [3, 3, 3, 4, 4, 5, 7]
