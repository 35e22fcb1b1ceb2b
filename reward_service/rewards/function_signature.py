"""Read from a reward function's signature and source which columns it reads. Worker processes import this."""

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ALWAYS_PASSED = {"completions", "prompts", "log_extra", "log_metric"}
"""TRL's arguments that are no columns. `completion_ids` and `trainer_state` travel only where they are read."""
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a reward function is called with."""

    columns: tuple[str, ...] | None
    """The columns that it reads, `completion_ids` and `trainer_state` included; None: any."""
    reads_prompts: bool
    accepted: frozenset[str] | None
    """The names of its parameters; None if it takes any keyword argument."""
    bound: frozenset[str]
    """Arguments that partials have bound: a column never replaces one."""
    is_async: bool

    def select(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments among `values` that the function takes."""
        return {
            name: value
            for name, value in values.items()
            if name not in self.bound and (self.accepted is None or name in self.accepted)
        }


def inspect_signature(function: Callable[..., Any], columns: Sequence[str] | None = None) -> Signature:
    """Return what a function is called with. `columns` replaces the columns found in its signature and source."""
    bound = frozenset(bound_arguments(function))
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # compiled: no signature
        names, accepted, read = set[str](), None, None
    else:
        names = {parameter.name for parameter in parameters if parameter.kind in NAMED}
        takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
        accepted = None if takes_any else frozenset(names)
        read = keywords_read(function) if takes_any else set()
    found = None if read is None else (names | read) - bound - ALWAYS_PASSED
    return Signature(
        columns=tuple(columns) if columns is not None else None if found is None else tuple(sorted(found)),
        reads_prompts=read is None or "prompts" in names | read,
        accepted=accepted,
        bound=bound if "self" in names else bound | {"self"},  # a method's own
        is_async=is_async(function),
    )


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether calling the function, or the callable object, gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def bound_arguments(function: Callable[..., Any]) -> set[str]:
    """Return the names of the keyword arguments that partials have bound."""
    names: set[str] = set()
    while isinstance(function, functools.partial):
        names, function = names | set(function.keywords), function.func
    return names


def without_partials(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that partials call."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def keywords_read(function: Callable[..., Any]) -> set[str] | None:
    """Return the keys that a function and its decorators read of their `**kwargs`; None if that cannot be known."""
    keys: set[str] = set()
    for layer, is_innermost in _layers(without_partials(function)):
        read = _keys_read(layer, may_pass_on=not is_innermost)
        if read is None:
            return None
        keys |= read
    return keys


def _layers(function: Callable[..., Any]) -> Iterator[tuple[Callable[..., Any], bool]]:
    """Yield the Python functions under decorators that use `functools.wraps`, from the outermost to the innermost."""
    while True:
        inner = getattr(function, "__wrapped__", None)
        if inspect.isroutine(function):
            yield function, inner is None
        elif inner is None:
            yield type(function).__call__, True
        if inner is None:
            return
        function = inner


def _keys_read(function: Callable[..., Any], *, may_pass_on: bool) -> set[str] | None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # no source of its own, such as a lambda in the middle of a line
        return None
    definition = next(
        (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)), None
    )
    if definition is None:
        return None
    if definition.args.kwarg is None:
        return set()
    name = definition.args.kwarg.arg
    loads = [node for node in ast.walk(definition) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    uses = sum(node.id == name for node in loads)
    known = [use for node in ast.walk(definition) if (use := _known_use(node, name, may_pass_on)) is not None]
    return set().union(*known) if len(known) == uses else None


def _known_use(node: ast.AST, name: str, may_pass_on: bool) -> set[str] | None:
    """Return the key of a use of `**name`: `name["key"]`, `name.get("key")` or `"key" in name`; None: no such use."""
    match node:
        case ast.Subscript(value=ast.Name(id=used), slice=ast.Constant(value=str(key)), ctx=ast.Load()) if used == name:
            return {key}
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id=used), attr="get"), args=[ast.Constant(value=str(key)), *_]
        ) if used == name:
            return {key}
        case ast.Compare(
            left=ast.Constant(value=str(key)), ops=[ast.In() | ast.NotIn()], comparators=[ast.Name(id=used)]
        ) if used == name:
            return {key}
        case ast.keyword(arg=None, value=ast.Name(id=used)) if used == name and may_pass_on:
            return set()
    return None
