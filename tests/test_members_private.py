"""Static: no file reaches into the private members of another, and none tells a part by its concrete class."""

import ast
from pathlib import Path

import dense_ctx
from dense_ctx import registry

ROOT = Path(dense_ctx.__file__).parent.parent
FILES = sorted([*(ROOT / "dense_ctx").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")])
LIBRARY = "of a library that offers nothing public for it: "
# "file: what is asked" -> why; nothing of ours may stand here
ALLOWED = {
    "dense_ctx/plugins.py: sys._getframe": LIBRARY + "where a warning should point",
    "dense_ctx/train/average.py: torch._foreach_lerp_": LIBRARY + "one kernel for all weights",
    "dense_ctx/train/loop.py: torch._foreach_mul_": LIBRARY + "one kernel for all gradients, as torch's own clip_grad",
    "dense_ctx/train/loop.py: torch._foreach_norm": LIBRARY + "the same",
    "dense_ctx/train/processes.py: AcceleratorState._reset_state": LIBRARY + "two runs in one process",
    "dense_ctx/train/processes.py: GradientState._reset_state": LIBRARY + "the same",
    "dense_ctx/train/processes.py: torch.distributed.distributed_c10d._get_default_store": LIBRARY + "last words",
    "dense_ctx/train/processes.py: torch.cpu._is_avx512_bf16_supported": LIBRARY + "whether bfloat16 is fast here",
    "dense_ctx/train/processes.py: os._exit": "public, in spite of its name",
    "plugins/dense_ctx_serve/project.py: urlsplit(address)._replace": "public, of a named tuple",
    "plugins/dense_ctx_backbones/hiera.py: net._parameters": LIBRARY + "a network of timm, whose parameter is replaced",
    "plugins/dense_ctx_backbones/hiera.py: net._modules": LIBRARY + "the same",
}


# a class that is written in several files, whose sessions know one another: its folder counts as one file
ONE_CLASS = "plugins/dense_ctx_session"


def own(tree: ast.AST) -> set[str]:
    """Private names that a file's own classes, functions and assignments define."""
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls"):
            names.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def private_members(text: str, others: set[str] = frozenset()) -> list[str]:
    """What a file asks of others, or imports from them, whose name begins with one underscore."""
    tree = ast.parse(text)
    mine, asked = own(tree) | others, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            asked += [f"import {a.name}" for a in node.names if a.name.startswith("_") and not a.name.startswith("__")]
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            root = ast.unparse(node.value)
            if root not in ("self", "cls") and not root.startswith("super()") and node.attr not in mine:
                asked.append(ast.unparse(node))
    return asked


def test_no_private_member_of_another_file_is_used():
    together = [ast.parse(path.read_text("utf-8")) for path in (ROOT / ONE_CLASS).rglob("*.py")]
    shared = set().union(*map(own, together))
    uses = {
        f"{path.relative_to(ROOT).as_posix()}: {what}"
        for path in FILES
        for what in private_members(path.read_text("utf-8"), shared if ONE_CLASS in path.as_posix() else frozenset())
    }
    assert not uses - set(ALLOWED)
    assert not set(ALLOWED) - uses, "places in ALLOWED that are gone"


def module_of(path: Path) -> str:
    relative = path.relative_to(ROOT if path.is_relative_to(ROOT / "dense_ctx") else ROOT / "plugins")
    return ".".join(relative.with_suffix("").parts).removesuffix(".__init__")


def told_apart(text: str, module: str, targets: set[str]) -> list[str]:
    """isinstance and issubclass of registered classes that another module defines."""
    tree, names = ast.parse(text), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            names |= {alias.asname or alias.name: f"{source}:{alias.name}" for alias in node.names}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and len(node.args) == 2]
    return [
        f"{module}: {ast.unparse(call)}"
        for call in calls
        if getattr(call.func, "id", "") in ("isinstance", "issubclass")
        and {names.get(getattr(word, "id", "")) for word in ast.walk(call.args[1])} & targets
    ]


def test_no_part_is_told_by_its_concrete_class():
    targets = {entry.target for entry in registry().entries() if registry().kinds[entry.kind].base is not None}
    assert len(targets) > 60
    assert not [line for path in FILES for line in told_apart(path.read_text("utf-8"), module_of(path), targets)]


def test_the_searches_see_an_offence():
    text = "from ..maxa import Maxa\nfrom .x import _hidden\ndef f(a):\n    isinstance(a, (int, Maxa)), a._state\n"
    assert private_members(text) == ["import _hidden", "a._state"]
    assert told_apart(text, "dense_ctx_maxa.a.b", {"dense_ctx_maxa.maxa:Maxa"}) == [
        "dense_ctx_maxa.a.b: isinstance(a, (int, Maxa))"
    ]
