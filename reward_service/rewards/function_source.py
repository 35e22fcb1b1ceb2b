"""Find somebody's function by its name, and tell it from what it was or will be: by its source and its arguments."""

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

_imported: dict[str, str] = {}
"""What each module's source was when it was first seen: what is imported stays, whatever is written to the file."""


def load_object(path: str) -> Callable[..., Any]:
    """Import `package.module:object`, from the installed packages or the folder the service was started in."""
    module_name, _, attribute = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    with translating(ConfigError, f"cannot import {path!r}"):
        found = _imported_module(module_name)
        for step in attribute.split("."):
            found = getattr(found, step)
    if not callable(found):
        raise ConfigError(f"{path!r} is not a function")
    return found  # type: ignore[no-any-return]


def _imported_module(name: str) -> Any:
    known = set(sys.modules)
    try:
        found = importlib.import_module(name)
    except SystemExit as error:  # it must not end the service that it is to be served by
        raise ImportError(f"it ends the program that imports it ({error.code})") from error
    for new in [each for each, module in sys.modules.items() if each not in known and _is_own(module)]:
        _imported.setdefault(new, _hash(_source(sys.modules[new])))
    return found


def _is_own(module: ModuleType) -> bool:
    """Tell whether a module is of the folder that the service was started in, where files are written to."""
    file = Path(getattr(module, "__file__", None) or "/")
    return file.is_relative_to(Path.cwd()) and "site-packages" not in file.parts


def bound_arguments(function: Callable[..., Any]) -> set[str]:
    """Give the names of the arguments that a function has been given already."""
    names: set[str] = set()
    while isinstance(function, functools.partial):
        names, function = names | set(function.keywords), function.func
    return names


def revision(path: str, function: Callable[..., Any]) -> str:
    """Hash a function's name and its module's source. Raises `ConfigError` where the file has another one by now."""
    while isinstance(function, functools.partial):
        path, function = f"{path} {_stable_repr(function.args)} {_stable_repr(function.keywords)}", function.func
    module = inspect.getmodule(function)
    source = _source(module) if module else repr(function)
    if module and _imported.setdefault(module.__name__, _hash(source)) != _hash(source):
        raise ConfigError(
            f"the source of {path!r} has changed since it was imported: start the service again to serve it"
        )
    return _hash(f"{path}\n{source}")[:16]


def _stable_repr(value: Any) -> str:
    """Word a value the same in every process: sets have no order, and other objects are told by their type alone."""
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return repr(value)
        case Mapping():
            return f"{{{', '.join(f'{_stable_repr(key)}: {_stable_repr(each)}' for key, each in value.items())}}}"
        case Set():
            return f"{{{', '.join(sorted(map(_stable_repr, value)))}}}"
        case Sequence():
            return f"[{', '.join(map(_stable_repr, value))}]"
        case _:
            return getattr(value, "__qualname__", type(value).__qualname__)


def _source(module: ModuleType) -> str:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):  # compiled: its name is all there is to tell it by
        return f"{module} {getattr(module, '__version__', '')}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
