"""Which code made a training: the commit of the source tree, and digests of the source of single parts.

Numbers of two trainings are comparable only where the same code made them. The commit says which code there was; a
digest says whether a part (a loss, a data set, a network) is still the one that a training used. A digest covers the
part and every definition in this package that it refers to, directly or through others. Comments, docstrings,
annotations, layout and the wording of errors do not count, for they change no number.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
# Read when this is imported, which is when the process starts: what runs is what was imported then, whatever happens
# to the files later.
_TEXTS = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


def commit_of(package: Path) -> str | None:
    """Return the commit of the source tree of `package` in 12 digits, with `+` where the source differs from it.

    A source file that git does not know counts as a difference, also where git ignores it: Python imports it all the
    same. None where the package is not part of a checkout, for example when it was installed into an environment that
    lies inside another project's tree.
    """

    def git(*arguments: str) -> str:
        line = ["git", "-c", "core.quotepath=off", *arguments]
        return subprocess.run(line, cwd=package, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", "__init__.py")
        head = git("rev-parse", "HEAD")[:12]
        changes = git("status", "--porcelain", "--untracked-files=all", "--ignored", "--", "*.py", "*.yaml")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}+" if changes else head


COMMIT = commit_of(PACKAGE)
"""The commit of the code that this process runs."""


KEEPING = "seminar.store"
"""Where things are kept, and how, changes no number."""


@functools.cache
def digest(*parts: Callable[..., Any]) -> str:
    """Return 12 hexadecimal digits of SHA-256 of the source of functions and classes, and of all that they refer to,
    but for `KEEPING`."""
    todo = [(part.__module__, part.__qualname__) for part in map(inspect.unwrap, parts)]
    found: dict[tuple[str, str], str] = {}
    while todo:
        module, name = todo.pop()
        if module == KEEPING:
            continue
        source = _source(module)
        if (module, name) in found:
            continue
        texts: list[str] = []
        for node in source.defining(name):
            texts.append(_canonical(node))
            todo += source.references(node)
        if texts:
            found[module, name] = "\n".join(texts)
        elif name in source.imports:  # defined elsewhere, as what `seminar.data` passes on
            todo.append(source.imports[name])
    # Without the modules: a definition that moves to another file is the same.
    return hashlib.sha256("\n".join(sorted(found.values())).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class _Source:
    """One module: its definitions by name, and what it imports from this package (module, name) by local name. The
    name is "" for a whole module."""

    name: str
    tree: ast.Module
    definitions: dict[str, list[ast.stmt]]
    imports: dict[str, tuple[str, str]]

    def defining(self, name: str) -> Sequence[ast.AST]:
        """Return the statements that define a top-level name or a method (`Class.method`); [] if there are none. A
        function made inside another has no name of its own; then the whole module is returned."""
        if "<locals>" in name:
            return [self.tree]
        outer, _, inner = name.partition(".")
        found = self.definitions.get(outer, [])
        if not inner:
            return found
        bodies = [node.body for node in found if isinstance(node, ast.ClassDef)]
        return [node for body in bodies for node in body if getattr(node, "name", None) == inner]

    def references(self, node: ast.AST) -> Iterator[tuple[str, str]]:
        """Yield the definitions (module, name) in this package that a statement refers to, but for its decorators,
        which only register it."""
        if isinstance(node, ast.Name):
            if node.id in self.definitions:
                yield self.name, node.id
            elif self.imports.get(node.id, ("", ""))[1]:
                yield self.imports[node.id]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module, name = self.imports.get(node.value.id, ("", "no module"))
            if not name:
                yield module, node.attr
        for field, value in _counting(node):
            if field != "decorator_list":
                for part in value if isinstance(value, list) else [value]:
                    if isinstance(part, ast.AST):
                        yield from self.references(part)


@functools.cache
def _source(module: str) -> _Source:
    """Parse a module of this package, or one that registers a part of its own."""
    path = Path(str(sys.modules[module].__file__)) if module in sys.modules else _places()[module]
    tree = ast.parse(_TEXTS.get(path) or path.read_text(encoding="utf-8"))
    definitions: dict[str, list[ast.stmt]] = {}
    for node in tree.body:
        for name in _defined(node):
            definitions.setdefault(name, []).append(node)
    imports: dict[str, tuple[str, str]] = {}
    for each in ast.walk(tree):
        if isinstance(each, ast.ImportFrom) and each.module and each.module.split(".")[0] == PACKAGE.name:
            for alias in each.names:
                inner = f"{each.module}.{alias.name}"
                place = (inner, "") if inner in _places() else (each.module, alias.name)
                imports[alias.asname or alias.name] = place
    return _Source(module, tree, definitions, imports)


@functools.cache
def _places() -> dict[str, Path]:
    """Return the files of all modules of this package by the name of the module."""
    names = {path: path.relative_to(PACKAGE.parent).with_suffix("").parts for path in _TEXTS}
    return {".".join(name[:-1] if name[-1] == "__init__" else name): path for path, name in names.items()}


def _defined(node: ast.stmt) -> list[str]:
    """Return the names that a top-level statement defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]


_UNCOUNTED = {"annotation", "returns", "type_comment", "type_params", "kind", "ctx", "msg"}


def _counting(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a node that can change a number. Versions of Python add fields, which are empty here."""
    if isinstance(node, ast.Raise):
        return
    for name, value in ast.iter_fields(node):
        if isinstance(value, list):
            value = [part for part in value if not _is_text(part)]
        if name not in _UNCOUNTED and value is not None and value != []:
            yield name, value


def _is_text(node: object) -> bool:
    """Return whether a statement is a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _canonical(node: object) -> str:
    """Return a syntax tree as text, the same for every layout and every version of Python."""
    if isinstance(node, ast.AST):
        return f"{type(node).__name__}({', '.join(f'{name}={_canonical(value)}' for name, value in _counting(node))})"
    if isinstance(node, list):
        return f"[{', '.join(map(_canonical, node))}]"
    return repr(node)
