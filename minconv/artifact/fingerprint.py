"""What a notebook depends on, as one hash: a notebook whose fingerprint is unchanged need not run again.

- The code of its cells, as it is written.
- The modules of the package that it imports and those that they import in turn, inside functions too. A string that
  names a module counts as an import of it, one that begins the name of some (``f"minconv.kernels.{name}"``) of all of
  these. Comments and docstrings do not count.
- The bytes of files that an earlier notebook wrote to figures/ and a string of its cells names (``benchmark.json``).
- The trained models of the package that a string names, or the beginning of their names (``f"navier_stokes/{cell}"``).

Not on other notebooks as such. What else it shares with them are data sets and trained models: whoever comes first
makes them, and each carries the settings that it was made with, which are compared whenever it is used. So notebook 5
runs again where the benchmark that it shows is another, and not because notebook 3 has run again.
"""

import ast
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple

from IPython.core.inputtransformer2 import TransformerManager

from minconv.artifact.times import ROOT

PACKAGE = ROOT / "minconv"


def fingerprint(cells: Mapping[str, str], profile: str, files: Mapping[str, Path], package: Path = PACKAGE) -> str:
    """SHA-256 of what a notebook depends on.

    Args:
        cells: its code by the identities of cells.
        profile: the name of the profile that it runs with.
        files: those that earlier notebooks wrote, by name.
        package: folder of the package.
    """
    codes = [TransformerManager().transform_cell(cell) for cell in cells.values()]  # magics become Python
    strings = {string for code in codes for string in _facts(code).strings}
    found = [profile, *(part for cell in cells.items() for part in cell)]
    found += [f"{name} {value}" for name, value in sorted(modules(codes, package).items())]
    weights = package / "models" / "weights"
    for config in sorted(weights.glob("*/*/config.json")):  # which holds the hash of the weights
        name = config.parent.relative_to(weights).as_posix()
        if any("/" in string and name.startswith(string) for string in strings):
            found.append(f"{name} {digest(config.read_bytes())}")
    for name in sorted(strings & files.keys()):
        found.append(f"{name} {digest(files[name].read_bytes()) if files[name].exists() else 'is not there'}")
    return digest(*found)


def modules(codes: Sequence[str], package: Path = PACKAGE) -> dict[str, str]:
    """The package's modules that code imports, and what these import in turn: hashes of their code by name."""
    files = {_module(path.relative_to(package.parent)): path for path in sorted(package.rglob("*.py"))}
    found: dict[str, str] = {}
    queue = [_facts(code) for code in codes]
    while queue:
        for name in _named(queue.pop(), files) - found.keys():
            within = name if files[name].name == "__init__.py" else name.rpartition(".")[0]
            facts = _facts(files[name].read_text(encoding="utf-8"), within)
            found[name] = facts.digest
            queue.append(facts)
    return found


def digest(*parts: str | bytes) -> str:
    """SHA-256 of the parts, each with its length, in hexadecimal."""
    total = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        total.update(b"%d:" % len(part) + part)
    return total.hexdigest()


class Facts(NamedTuple):
    """What counts of a piece of code: a hash of what it does, names that it imports, its strings."""

    digest: str
    imports: frozenset[str]
    strings: frozenset[str]


@cache
def _facts(code: str, within: str = "") -> Facts:
    """Of code in the package ``within``; of what is no Python, nothing: that is told when it runs."""
    try:
        tree = _WithoutDocstrings().visit(ast.parse(code))
    except SyntaxError:
        tree = ast.Module([], [])
    imports, strings = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), within)
            imports |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif _is_string(node):
            strings.add(node.value)
    return Facts(digest(ast.dump(tree)), frozenset(imports), frozenset(strings))


class _WithoutDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if _is_string(node.value) else node


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _named(facts: Facts, known: Mapping[str, Path]) -> set[str]:
    """Which of the ``known`` modules a piece of code imports or names, with the packages that they are in."""
    names = set(facts.imports)
    for text in facts.strings:
        if "." in text:
            inside = text.rstrip(".") + "."
            names |= {name for name in known if name == text or name.startswith(inside)}
    parts = [name.split(".") for name in names]
    return {".".join(part[:n]) for part in parts for n in range(1, len(part) + 1)} & known.keys()


def _module(path: Path) -> str:
    """The dotted name of the module in a file."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
