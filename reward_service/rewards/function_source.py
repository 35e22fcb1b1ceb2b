"""Import a user's function by name, and compute its revision: a hash of its source and its bound arguments."""

import functools
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from types import ModuleType
from typing import Any

from reward_service.errors import ConfigError, translating

_source_hashes: dict[str, str] = {}
"""Each module's source hash when it was imported. Global like `sys.modules`: an import lasts as long as the process."""


def load_object(path: str) -> Callable[..., Any]:
    """Import `package.module:object`, from the installed packages or the current folder. Raise `ConfigError`."""
    module_name, _, attribute = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    with translating(ConfigError, f"cannot import {path!r}"):
        target = _import_module(module_name)
        for step in attribute.split("."):
            target = getattr(target, step)
    if not callable(target):
        raise ConfigError(f"{path!r} is not a function")
    return target  # type: ignore[no-any-return]


def _import_module(name: str) -> Any:
    """Import a module, and note the source of every local module that it imports."""
    before = set(sys.modules)
    try:
        module = importlib.import_module(name)
    except SystemExit as error:  # must not end the service
        raise ImportError(f"the module exits on import ({error.code})") from error
    for imported in set(sys.modules) - before:
        if _is_local(sys.modules[imported]):
            _source_hashes.setdefault(imported, _hash(_source(sys.modules[imported])))
    return module


def _is_local(module: ModuleType) -> bool:
    """Return whether a module is a file of the current folder, which users edit, and not an installed one."""
    file = Path(getattr(module, "__file__", None) or "/")
    return file.is_relative_to(Path.cwd()) and "site-packages" not in file.parts


def bound_arguments(function: Callable[..., Any]) -> set[str]:
    """Return the names of the keyword arguments that partials have bound."""
    names: set[str] = set()
    while isinstance(function, functools.partial):
        names, function = names | set(function.keywords), function.func
    return names


def revision(path: str, function: Callable[..., Any]) -> str:
    """Hash a function's name, bound arguments and module source. Raise `ConfigError` if the file has changed since."""
    while isinstance(function, functools.partial):
        path = f"{path} {_stable_repr(function.args)} {_stable_repr(function.keywords)}"
        function = function.func
    module = inspect.getmodule(function)
    source = _source(module) if module else repr(function)
    if module and _source_hashes.setdefault(module.__name__, _hash(source)) != _hash(source):
        raise ConfigError(f"the source of {path!r} has changed since it was imported: restart the service to serve it")
    return _hash(f"{path}\n{source}")[:16]


def _stable_repr(value: Any) -> str:
    """Return a repr that is the same in every process: sets sorted, other objects by their type alone."""
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return repr(value)
        case Mapping():
            items = (f"{_stable_repr(key)}: {_stable_repr(item)}" for key, item in value.items())
            return f"{{{', '.join(items)}}}"
        case Set():
            return f"{{{', '.join(sorted(map(_stable_repr, value)))}}}"
        case Sequence():
            return f"[{', '.join(map(_stable_repr, value))}]"
        case _:
            return getattr(value, "__qualname__", type(value).__qualname__)


def _source(module: ModuleType) -> str:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):  # compiled: no source
        return f"{module} {getattr(module, '__version__', '')}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
