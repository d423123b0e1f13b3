"""Small changes of a Python file, one at a time, such as a mistake would make; for `mutants.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

COMPARISONS = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
_PAIRS = {
    "min": "max", "amin": "amax", "argmin": "argmax", "minimum": "maximum", "clamp_min": "clamp_max", "any": "all",
    "clamp_min_": "clamp_max_", "floor": "round", "ceil": "round", "sum": "mean", "nanmean": "nansum", "sub_": "add_",
    "mul_": "div_",
}  # fmt: skip
NAMES = {**{other: name for name, other in _PAIRS.items()}, **_PAIRS}  # of calls: one instead of the other
WRAPPERS = {  # calls whose result is of the same kind as what they are called on, and so could be forgotten
    "ceil", "round", "floor", "clamp", "clamp_", "clamp_min", "clamp_min_", "clamp_max", "clip", "normalize", "softmax",
    "sqrt", "sqrt_", "rsqrt", "reciprocal_", "square", "square_", "abs", "abs_", "exp", "exp_", "expm1", "expm1_",
    "log", "log_", "sign", "sign_", "neg", "neg_", "nan_to_num", "flip", "cumsum", "detach", "double", "clone", "copy",
    "masked_fill", "_normalized", "_signed",
}  # fmt: skip
_MODULES = {"math", "torch", "functional", "np"}
# keywords without which a call does the same on a CPU, or that only guard: {name: value, None: any}
IDLE = {"strict": None, "device": None, "stacklevel": None, "check_invariants": None, "align_corners": False}
TABLES = {"file_args"}  # what a downloaded file may ask for: bounds of trust, not of a closed form
Edit = tuple[ast.AST, str, Any]  # object, field, new value


@dataclass(frozen=True)
class Mutant:
    """A changed file.

    function: its qualified name, or the class's, "" for the module. body: whether it is in a function's body and not
    its head or a class's attributes, which are read without a line being run. lines: of the statement, first and last.
    change: of the statement. source: the whole file's.
    """

    function: str
    body: bool
    lines: tuple[int, int]
    change: str
    source: str

    @property
    def key(self) -> str:
        """What it is, whatever lines are above it."""
        return f"{self.function or 'module'}: {self.change}"


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a file; two of the same text are one."""
    tree = ast.parse(source)
    texts = {ast.unparse(tree)}
    results: dict[str, Mutant] = {}
    for function, body, statement, edits in list(_sites(tree, None, "", "", True, tree)):
        before, former = _head(statement), [(node, field, getattr(node, field)) for node, field, _ in edits]
        for node, field, value in edits:
            setattr(node, field, value)
        text, after = ast.unparse(ast.fix_missing_locations(tree)), _head(statement)
        for node, field, value in former:
            setattr(node, field, value)
        if text in texts:
            continue
        texts.add(text)
        lines = (statement.lineno, statement.end_lineno or statement.lineno)
        mutant, number = Mutant(function, body, lines, _difference(before, after), text), 1
        while mutant.key in results:  # the same change of an equal statement
            number += 1
            mutant = Mutant(function, body, lines, f"{_difference(before, after)} ({number})", text)
        results[mutant.key] = mutant
    return list(results.values())


def _difference(before: str, after: str) -> str:
    """`before -> after`, the parts they share left out but for some characters beside the change."""
    if before == after:  # the statement as a whole is gone
        return f"{before[:90]} -> (deleted)"
    start = _common(before, after)
    end = _common(before[start:][::-1], after[start:][::-1])
    first = max(0, start - 40)
    parts = [text[first : len(text) - end] + text[len(text) - end :][:16] for text in (before, after)]
    return ("..." if first else "") + " -> ".join(parts)


def _common(a: str, b: str) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _head(statement: ast.AST) -> str:
    text = ast.unparse(statement).splitlines()
    head = next(line for line in text if not line.startswith("@"))
    return head.strip()


def _sites(
    node: ast.AST, parent: ast.AST | None, field: str, function: str, body: bool, statement: ast.AST
) -> Iterator[tuple[str, bool, ast.AST, list[Edit]]]:
    if isinstance(node, ast.stmt):
        statement = node
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.JoinedStr)) or (
        isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    ):
        return
    if isinstance(node, ast.keyword) and node.arg in IDLE and IDLE[node.arg] is None:
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring
        return
    if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") in TABLES:
        return
    for edits in _edits(node, parent, field):
        yield function, body, statement, edits
    if isinstance(node, ast.Raise):  # what it says is not what it does
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        inside, within = function, body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            inside = f"{function}.{node.name}".lstrip(".")
            within = name == "body" and isinstance(node, ast.FunctionDef)
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _sites(child, node, name, inside, within, statement)


def _edits(node: ast.AST, parent: ast.AST | None, field: str) -> Iterator[list[Edit]]:
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            for other in COMPARISONS[type(operator)]:
                yield [(node, "ops", [*node.ops[:index], other(), *node.ops[index + 1 :]])]
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in ARITHMETIC:
        yield [(node, "op", ARITHMETIC[type(node.op)]())]
    elif isinstance(node, ast.BoolOp):
        yield [(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And())]
    elif isinstance(node, ast.UnaryOp) and parent is not None and not isinstance(parent, (ast.Subscript, ast.Slice)):
        yield _instead(parent, field, node, node.operand)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        value = node.value
        others = [not value] if isinstance(value, bool) else [value + 1, value - 1, value * 2, 0 * value]
        for other in dict.fromkeys(others):
            if other != value:
                yield [(node, "value", other)]
    elif isinstance(node, ast.Call):
        yield from _of_call(node, parent, field)
    elif isinstance(node, (ast.If, ast.IfExp)):
        yield from ([(node, "test", ast.Constant(value))] for value in (True, False))
    if isinstance(node, ast.comprehension) and node.ifs:
        yield [(node, "ifs", [])]
    if parent is not None and isinstance(node, ast.stmt) and _may_go(node):
        yield _instead(parent, field, node, ast.Pass())


def _of_call(node: ast.Call, parent: ast.AST | None, field: str) -> Iterator[list[Edit]]:
    for index, keyword in enumerate(node.keywords):
        idle = keyword.arg in IDLE and IDLE[keyword.arg] in (None, getattr(keyword.value, "value", ""))
        if not idle:
            yield [(node, "keywords", [*node.keywords[:index], *node.keywords[index + 1 :]])]
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name in NAMES:
        yield [(function, "attr" if isinstance(function, ast.Attribute) else "id", NAMES[name])]
    if name in WRAPPERS and parent is not None and not isinstance(parent, ast.Expr):
        method = isinstance(function, ast.Attribute) and getattr(function.value, "id", "") not in _MODULES
        if method or node.args:
            yield _instead(parent, field, node, function.value if method else node.args[0])  # type: ignore[attr-defined]


def _instead(parent: ast.AST, field: str, node: ast.AST, other: ast.AST) -> list[Edit]:
    value = getattr(parent, field)
    return [(parent, field, [other if one is node else one for one in value] if isinstance(value, list) else other)]


def _may_go(node: ast.stmt) -> bool:
    """Statements without which the rest still runs."""
    if isinstance(node, ast.Assign):
        return all(isinstance(target, (ast.Attribute, ast.Subscript)) for target in node.targets) or any(
            isinstance(part, ast.Name) and part.id in {t.id for t in node.targets if isinstance(t, ast.Name)}
            for part in ast.walk(node.value)
        )  # `x = f(x)`: x is there without it
    return isinstance(node, (ast.Expr, ast.AugAssign, ast.Raise, ast.Continue, ast.Break))
