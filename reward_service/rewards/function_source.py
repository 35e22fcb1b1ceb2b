"""Import a user's function by name, and compute its revision: a hash of its own modules and its bound arguments.

A function's own modules are the one that the configuration names, and those of the user's folder that it imports.
"""

import ast
import functools
import hashlib
import importlib
import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from types import ModuleType
from typing import Any

from reward_service.errors import ConfigError, translating

_file_hashes: dict[str, str] = {}
"""Each own module's hash when it was imported. Global like `sys.modules`: an import lasts as long as the process."""
_imported_with: dict[str, set[str]] = {}
"""The modules that the import of a module has imported."""
STANDARD_LIBRARY = Path(sysconfig.get_paths()["stdlib"])


def load_object(path: str) -> Callable[..., Any]:
    """Import `package.module:object`, from the installed packages or the current folder. Raise `ConfigError`."""
    module_name, _, attribute = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    with translating(ConfigError, f"cannot import {path!r}, from the installed packages or from {here}"):
        owner = target = _import_module(module_name)
        for step in attribute.split("."):
            owner, target = target, getattr(target, step)
    if not callable(target):
        raise ConfigError(f"{path!r} is not a function: name one, or another object that can be called")
    if inspect.isclass(target) or _is_unbound(owner, step):
        kind = "a class" if inspect.isclass(target) else "a method of a class"
        raise ConfigError(
            f"{path!r} is {kind}, which scores nothing without an object: make one in the module, such as judge = "
            f"{(target if inspect.isclass(target) else owner).__name__}(), and name that"
        )
    return target  # type: ignore[no-any-return]


def _is_unbound(owner: Any, name: str) -> bool:
    """Return whether an attribute of a class is a method that needs an object, no static or class method."""
    return inspect.isclass(owner) and inspect.isfunction(inspect.getattr_static(owner, name))


def _import_module(name: str) -> Any:
    """Import a module, and note the files of all own modules that it imports."""
    before = set(sys.modules)
    try:
        module = importlib.import_module(name)
    except SystemExit as error:  # must not end the service
        raise ImportError(
            f"the module exits on import ({error.code}): keep what runs under if __name__ == '__main__'"
        ) from error
    _imported_with.setdefault(name, set()).update(set(sys.modules) - before)
    for own in own_modules(module):
        _file_hashes.setdefault(own.__name__, _content_hash(own))
    return module


def own_modules(module: ModuleType) -> list[ModuleType]:
    """Return a module and all modules of the user's folder that it has imported, sorted by name."""
    folders = {Path.cwd(), _top_folder(module)}
    found: dict[str, ModuleType] = {module.__name__: module}
    pending = [*_imported_with.get(module.__name__, ()), *_imports(module)]
    while pending:
        name = pending.pop()
        imported = sys.modules.get(name)
        if name not in found and imported is not None and _is_in(imported, folders):
            found[name] = imported
            pending += _imports(imported)
    return [found[name] for name in sorted(found)]


def _top_folder(module: ModuleType) -> Path:
    """Return the folder that holds a module's top-level package."""
    file = Path(getattr(module, "__file__", None) or "/nowhere/module.py")
    is_package = hasattr(module, "__path__")
    return file.parents[min(module.__name__.count(".") + is_package, len(file.parents) - 1)]


def _is_in(module: ModuleType, folders: Set[Path]) -> bool:
    """Return whether a module is a file of these folders, which users edit, and not an installed one."""
    file = Path(getattr(module, "__file__", None) or "/")
    installed = "site-packages" in file.parts or file.is_relative_to(STANDARD_LIBRARY)
    return not installed and any(file.is_relative_to(folder) for folder in folders)


def _imports(module: ModuleType) -> Iterator[str]:
    """Yield the names that may be modules in a module's import statements."""
    try:
        tree = ast.parse(_content(module))
    except (SyntaxError, ValueError):  # compiled
        return
    package = module.__package__ or ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: 1 - node.level or None]) if node.level else ""
            origin = ".".join(filter(None, [base, node.module]))
            yield from _with_parents(origin)
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def _with_parents(name: str) -> Iterator[str]:
    steps = name.split(".")
    yield from (".".join(steps[: count + 1]) for count in range(len(steps)))


def revision(path: str, function: Callable[..., Any]) -> str:
    """Hash a function's name, bound arguments and own modules. Raise `ConfigError` if a file has changed since.

    The hash also covers the module that defines the function, if that is another one: an installed package.
    """
    named = sys.modules.get(path.partition(":")[0])
    content = [path]
    while isinstance(function, functools.partial):
        content.append(f"{_stable_repr(function.args)} {_stable_repr(function.keywords)}")
        function = function.func
    defining = inspect.getmodule(function)
    modules = {own.__name__: own for module in (named, defining) if module for own in own_modules(module)}
    for name, module in sorted(modules.items()):
        content_hash = _content_hash(module)
        if _file_hashes.setdefault(name, content_hash) != content_hash:
            raise ConfigError(
                f"the source of {name!r}, which {path!r} uses, has changed since it was imported: "
                f"restart the service to serve it"
            )
        content.append(f"{name} {content_hash}")
    if not modules:
        content.append(_stable_repr(function))
    return hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]


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


def _content(module: ModuleType) -> bytes:
    """Return a module's source file, read now; of a compiled one, its name and version."""
    file = getattr(module, "__file__", None)
    if file and file.endswith(".py") and Path(file).exists():
        return Path(file).read_bytes()
    return f"{module.__name__} {getattr(module, '__version__', '')}".encode()


def _content_hash(module: ModuleType) -> str:
    return hashlib.sha256(_content(module)).hexdigest()
