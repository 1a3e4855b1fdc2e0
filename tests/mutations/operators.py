"""Finds the places in a module's syntax tree where a bug can be planted, and the replacement for each.

Text (f-strings, docstrings), annotations, decorators, defaults and conversions such as str(x) are skipped: they change no decision.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Function = (ast.FunctionDef, ast.AsyncFunctionDef)

# Calls that are not replaced by their first argument: conversions, and calls that only read.
CONVERSIONS = {
    *("str", "int", "float", "bool", "list", "tuple", "dict", "set", "frozenset", "repr", "len", "isinstance", "iter"),
    *("asdict", "cast", "plain", "as_data", "map", "filter", "zip", "print", "getattr", "note", "enumerate", "range"),
    *("dirname", "basename", "encode", "decode", "split", "splitlines", "strip", "rstrip", "lstrip", "format", "round"),
    *("open", "hasattr", "join", "super", "type", "replace", "hexdigest", "abs", "next", "merged"),
}
# Statements whose removal costs time only.
WAITS = {"sleep", "pause"}
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
SWAPPED = {"any": "all", "all": "any", "min": "max", "max": "min"}
MOST_ITEMS = 12


@dataclass
class Site:
    """One bug that can be planted: in `owner`, the child `name` (at `index`, if that is a list) becomes `new`.

    qualname: the function or module constant that contains it. function: the outermost function, whose code is replaced ('' for a constant).
    lines: those of the statement, or of the head of a compound statement. Only tests that execute one of them can notice.
    """

    path: str
    qualname: str
    function: str
    operator: str
    lines: tuple[int, int]
    before: str
    after: str
    owner: ast.AST = field(repr=False)
    name: str = field(repr=False)
    index: int | None = field(repr=False)
    new: ast.AST = field(repr=False)
    ordinal: int = 0

    @property
    def line(self) -> int:
        return self.lines[0]

    @property
    def key(self) -> str:
        """Depends only on the code that is replaced, not on line numbers or the code around it."""
        digest = hashlib.sha256(self.before.encode()).hexdigest()[:8]
        return f"{self.path}:{self.qualname}:{self.operator}:{self.ordinal}:{digest}"

    def plant(self) -> None:
        """Change the tree."""
        if self.index is None:
            setattr(self.owner, self.name, self.new)
        else:
            getattr(self.owner, self.name)[self.index] = self.new

    def __str__(self) -> str:
        shown = [" ".join(text.split()) for text in (self.before, self.after)]
        before, after = (text if len(text) < 110 else f"{text[:107]}..." for text in shown)
        return f"{self.path}:{self.line}: {self.qualname}: {self.operator}: {before}  =>  {after}"


def called(node: ast.AST) -> str:
    """The last name of what a call calls."""
    if not isinstance(node, ast.Call):
        return ""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def lines_of(node: ast.AST) -> tuple[int, int]:
    return node.lineno, node.end_lineno or node.lineno  # type: ignore[attr-defined]


def text_of(node: ast.AST) -> str:
    """The source of a node; of a loop its head."""
    if isinstance(node, ast.For):
        return f"for {ast.unparse(node.target)} in {ast.unparse(node.iter)}"
    return ast.unparse(node)


def constant(value: object) -> ast.Constant:
    return ast.Constant(value)  # type: ignore[arg-type]


# Bugs for a node: the operator and the new node.
Change = tuple[str, ast.AST]


def is_default(node: ast.BoolOp) -> bool:
    """Whether it gives a default, such as `x or []`."""
    last = node.values[-1]
    is_empty = (isinstance(last, ast.Constant) and not last.value) or ast.unparse(last) in ("[]", "{}", "()")
    return isinstance(node.op, ast.Or) and is_empty


def conditions(node: ast.AST) -> Iterator[tuple[str, int | None, Change]]:
    """A condition that is always false or always true. Harder to notice than a negation, which any test of either branch notices."""
    tests: list[tuple[str, int | None, ast.expr]] = []
    if isinstance(node, (ast.If, ast.IfExp)) or (
        isinstance(node, ast.While) and not isinstance(node.test, ast.Constant)
    ):
        tests = [("test", None, node.test)]
    elif isinstance(node, ast.comprehension):
        tests = [("ifs", number, test) for number, test in enumerate(node.ifs)]
    for name, index, test in tests:
        if isinstance(test, ast.Name) and test.id == "TYPE_CHECKING":
            continue
        yield name, index, ("never", constant(False))
        if not isinstance(node, ast.While):
            yield name, index, ("always", constant(True))


def is_conversion(name: str) -> bool:
    """Whether a call converts its argument. A class counts too."""
    return name in CONVERSIONS or name[:1].isupper()


def is_value(argument: ast.expr) -> bool:
    """Whether an argument can stand for the call."""
    return not isinstance(argument, (ast.Starred, ast.GeneratorExp, ast.Constant))


def expressions(node: ast.expr, is_statement: bool) -> Iterator[Change]:
    """What an expression is replaced by. is_statement: its value is not used."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "without not", node.operand
    elif isinstance(node, ast.BoolOp):
        if is_default(node):
            return
        for number in range(len(node.values)):
            rest = [*node.values[:number], *node.values[number + 1 :]]
            yield "without operand", rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
        yield "and/or", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield "comparison", ast.Compare(node.left, [COMPARISONS[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.Compare):
        for number, op in enumerate(node.ops):
            ops = [*node.ops[:number], COMPARISONS[type(op)](), *node.ops[number + 1 :]]
            yield "comparison", ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        for side, other in ((node.right, node.left), (node.left, node.right)):
            if isinstance(side, ast.Constant) and isinstance(side.value, (int, float)):
                yield "off by one", other
    elif isinstance(node, ast.Call):
        name = called(node)
        if name in SWAPPED and isinstance(node.func, ast.Name):
            yield "other end", ast.Call(ast.Name(SWAPPED[name], ast.Load()), node.args, node.keywords)
        elif node.args and not is_statement and not is_conversion(name) and is_value(node.args[0]):
            yield "first argument", node.args[0]
        for number, keyword in enumerate(node.keywords):
            if isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, bool):
                changed = [
                    *node.keywords[:number],
                    ast.keyword(keyword.arg, constant(not keyword.value.value)),
                    *node.keywords[number + 1 :],
                ]
                yield "flag", ast.Call(node.func, node.args, changed)
    elif isinstance(node, (ast.List, ast.Set)) and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
        yield from fewer(node, node.elts)


def fewer(node: ast.List | ast.Set | ast.Tuple, elements: list[ast.expr]) -> Iterator[Change]:
    """A collection without one of its elements."""
    if len(elements) > MOST_ITEMS:
        return
    for number in range(len(elements)):
        rest = [*elements[:number], *elements[number + 1 :]]
        empty = ast.Call(ast.Name("set", ast.Load()), [], [])
        if isinstance(node, ast.Set):
            yield "fewer elements", ast.Set(rest) if rest else empty
        else:
            yield "fewer elements", type(node)(rest, ast.Load())


def statements(node: ast.stmt, returns: ast.expr | None) -> Iterator[Change]:
    """What a statement is replaced by."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        if called(node.value) not in WAITS:
            yield "no statement", ast.Pass()
    elif isinstance(node, (ast.Raise, ast.AugAssign, ast.Delete, ast.Break, ast.Continue)) or (
        isinstance(node, ast.Assign) and all(isinstance(item, (ast.Attribute, ast.Subscript)) for item in node.targets)
    ):
        yield "no statement", ast.Pass()
    elif isinstance(node, (ast.For, ast.AsyncFor)):
        yield "no iteration", ast.Pass()
    elif isinstance(node, ast.Return) and node.value is not None:
        for value in constants_of(returns):
            if ast.dump(value) != ast.dump(node.value):
                yield f"return {ast.unparse(value)}", ast.Return(value)


def constants_of(returns: ast.expr | None) -> list[ast.expr]:
    """Constants that a function with this annotation could return."""
    text = ast.unparse(returns) if returns else ""
    if text == "bool":
        return [constant(False), constant(True)]
    for beginning, value in (("list", ast.List([], ast.Load())), ("dict", ast.Dict([], [])), ("str", constant(""))):
        if text.startswith(beginning):
            return [value]
    if text.startswith("tuple"):
        return [ast.Tuple([], ast.Load())] if "..." in text else []
    return [constant(None)] if text.endswith("None") and text != "None" else []


def is_words(node: ast.AST) -> bool:
    """Whether a node only makes text."""
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


SKIPPED = {"annotation", "returns", "decorator_list", "args", "type_params"}


def sites_of(path: Path, root: Path) -> tuple[ast.Module, list[Site]]:
    """The tree of a file and all its places. The tree is shared: plant one bug only."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    name = str(path.relative_to(root))
    found: list[Site] = []
    seen: dict[tuple[str, str, str], int] = {}

    def add(
        scope: list[str],
        function: str,
        owner: ast.AST,
        place: str,
        index: int | None,
        old: ast.AST,
        change: Change,
        lines: tuple[int, int],
    ) -> None:
        operator, new = change
        before, after = text_of(old), text_of(new)
        if before == after:
            return
        ast.copy_location(new, old)
        qualname = ".".join(scope)
        count = seen.get((qualname, operator, before), 0)
        seen[qualname, operator, before] = count + 1
        found.append(Site(name, qualname, function, operator, lines, before, after, owner, place, index, new, count))

    def walk(
        node: ast.AST, scope: list[str], function: str, returns: ast.expr | None, lines: tuple[int, int] = (0, 0)
    ) -> None:
        if function:
            for place, index, change in conditions(node):
                old = getattr(node, place) if index is None else getattr(node, place)[index]
                add(scope, function, node, place, index, old, change, lines_of(old) if hasattr(node, "body") else lines)
        for place, value in ast.iter_fields(node):
            if place in SKIPPED and isinstance(node, (*Function, ast.ClassDef, ast.arg, ast.AnnAssign, ast.Lambda)):
                continue
            children = value if isinstance(value, list) else [value]
            for number, child in enumerate(children):
                if isinstance(child, ast.AST) and not is_words(child):
                    index = number if isinstance(value, list) else None
                    own = isinstance(child, (ast.stmt, ast.ExceptHandler)) or (
                        isinstance(node, ast.stmt) and hasattr(node, "body")
                    )
                    visit(
                        node,
                        place,
                        index,
                        child,
                        scope,
                        function,
                        returns,
                        lines_of(child) if own and hasattr(child, "lineno") else lines,
                    )

    def visit(
        owner: ast.AST,
        place: str,
        index: int | None,
        node: ast.AST,
        scope: list[str],
        function: str,
        returns: ast.expr | None,
        lines: tuple[int, int],
    ) -> None:
        if isinstance(node, Function):
            inner = [*scope, node.name]
            walk(node, inner, function or ".".join(inner), node.returns)
            return
        if isinstance(node, ast.ClassDef):
            walk(node, [*scope, node.name], function, None)
            return
        changes: list[Change] = []
        if function:
            if isinstance(node, ast.stmt):
                changes += statements(node, returns)
            elif isinstance(node, ast.expr):
                changes += expressions(node, isinstance(owner, ast.Expr))
                within = (isinstance(owner, ast.Compare) and place == "comparators") or place == "iter"
                if isinstance(node, ast.Tuple) and within:
                    changes += fewer(node, node.elts)
            elif isinstance(node, ast.ExceptHandler):
                raised = ast.ExceptHandler(node.type, node.name, [ast.copy_location(ast.Raise(), node)])
                changes += [("not caught", raised)] if not isinstance(node.body[0], ast.Raise) else []
        for change in changes:
            add(
                scope,
                function,
                owner,
                place,
                index,
                node,
                change,
                lines_of(node.iter) if isinstance(node, ast.For) else lines,
            )
        # A constant of the module.
        if not scope and isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if (
                len(targets) == 1
                and isinstance(targets[0], ast.Name)
                and isinstance(node.value, (ast.Tuple, ast.List, ast.Set))
            ):
                for change in fewer(node.value, node.value.elts):
                    add([targets[0].id], "", node, "value", None, node.value, change, lines_of(node))
            return
        walk(node, scope, function, returns, lines)

    walk(tree, [], "", None)
    return tree, found
