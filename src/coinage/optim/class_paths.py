"""Find classes that a command names as `module.Class`, and check them before any of their code runs.

Importing a module runs it, and a settings file from elsewhere may name any. So a module is taken
from where packages are installed, and from the folders of PYTHONPATH, which the user sets; never
from the working directory or a script's folder just because Python looks there too. Files are only
read, except by `import_class`. Imports no torch.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from coinage.errors import Problem, did_you_mean

# What defines names while a module runs
DYNAMIC = {"*", "__getattr__", "globals", "setattr", "vars", "exec"}


def import_folders() -> list[str]:
    """Return Python's folders of modules, without those that only the place of the command adds."""
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    asked = {os.path.realpath(folder) for folder in named if folder}
    left_out = {os.path.realpath("."), _script_folder()} - asked
    return [path for path in sys.path if path and os.path.realpath(path) not in left_out]


def _script_folder() -> str:
    file = getattr(sys.modules.get("__main__"), "__file__", None) or "."
    return str(Path(file).resolve().parent)


def find_module(module: str) -> ModuleSpec | None:
    """Find a module's file without running it or the packages around it; None where there is none."""
    folders: Sequence[str] = import_folders()
    spec: ModuleSpec | None = None
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        spec = PathFinder.find_spec(name, list(folders)) or (
            _editable(name) if count == 1 else None
        )
        if spec is None:
            return None
        folders = list(spec.submodule_search_locations or ())
    return spec


def _editable(package: str) -> ModuleSpec | None:
    """Find a package that pip installed as a link to its sources, by a finder of its own."""
    finders: list[Any] = list(sys.meta_path)
    for finder in finders:
        if getattr(finder, "__module__", "").startswith("__editable__"):
            spec: ModuleSpec | None = finder.find_spec(package, None)
            if spec:
                return spec
    return None


def import_problems(
    flag: str, given: str, path: str, what: str, extra_packages: Collection[str] = ()
) -> list[Problem]:
    """Find out whether a class can be imported, without importing it.

    Args:
        flag: that names it.
        given: as the user wrote it.
        path: module.Class.
        what: it should be, such as "an optimizer".
        extra_packages: that the extra `optimizers` brings.
    """
    module, _, name = path.rpartition(".")
    package = module.partition(".")[0]
    if package in sys.stdlib_module_names:
        return [Problem(f"{flag} {given} is not {what}: {package} is part of Python itself")]
    if find_module(package) is None:
        missing = f"{flag} {given} needs the package {package}, which is not installed"
        return [Problem(missing, hint=_how_to_install(package, extra_packages))]
    spec = find_module(module)
    names = names_in(spec) if spec else None
    if names is None or name in names:
        return []
    hint = did_you_mean(name, sorted(names)) or f"see what {module} holds"
    return [Problem(f"{flag} {given} is not {what}: there is no {name} in {module}", hint=hint)]


def _how_to_install(package: str, extra_packages: Collection[str]) -> str:
    """Return a hint that says how to get a package that is missing."""
    if package in extra_packages:
        return f"pip install {package.replace('_', '-')}"
    here = os.path.realpath(".")
    for folder in (here, _script_folder()):
        if PathFinder.find_spec(package, [folder]):
            return _how_to_allow(package, folder, here)
    return "install the package that holds it; or set PYTHONPATH to the folder of your own module"


def _how_to_allow(package: str, folder: str, here: str) -> str:
    """Return a hint that says how to allow imports from a folder where Python alone would look."""
    if folder != here:
        way = f"set PYTHONPATH to {folder}"
    elif os.name == "nt":
        way = "set PYTHONPATH=. first"
    else:
        way = "put PYTHONPATH=. before the command"
    return f"{package} in {folder} is not imported unless you say so: if you trust it, {way}"


def names_in(spec: ModuleSpec) -> set[str] | None:
    """Return the names that a module's file defines; None where only running it would show them."""
    if spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name):
            names |= {node.id} if isinstance(node.ctx, ast.Store) or node.id in DYNAMIC else set()
    return None if names & DYNAMIC else names


def import_class(path: str) -> Any:
    """Import module.Class. This runs the code of the module and of the packages around it.

    Returns:
        What has the name; None where it is missing.

    Raises:
        Exception: whatever the module's own code raises.
    """
    module, _, name = path.rpartition(".")
    with _only_from(import_folders()):
        return getattr(import_module(module), name, None)


@contextmanager
def _only_from(folders: Sequence[str]) -> Iterator[None]:
    """Have Python look for modules in these folders alone."""
    before = list(sys.path)
    sys.path[:] = folders
    try:
        yield
    finally:
        sys.path[:] = [*before, *(folder for folder in sys.path if folder not in folders)]
