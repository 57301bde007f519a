"""Verdicts that were found, in an SQLite file: a sweep that was stopped goes on where it was.

A verdict counts as long as nothing changes that it depends on:

* the scenario, and the case with its seed;
* the tool's files that the scenario names, of a Python script all in its directory;
* the code of blkxact that runs in a case, without comments and docstrings: all modules but those
  of ``NOT_IN_A_CASE``;
* the versions of Python and of ``DEPENDENCIES``.

What else is on the machine (the tool's libraries, ``qemu-img``) is not looked at.
"""

from __future__ import annotations

import ast
import hashlib
import sqlite3
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

import blkxact

from .results import Case, Result
from .scenario import Scenario

_TABLE: Final = "CREATE TABLE IF NOT EXISTS verdicts (of TEXT PRIMARY KEY, result TEXT NOT NULL)"
_RESULT: Final = TypeAdapter(Result)
_PACKAGE: Final = Path(blkxact.__file__).parent
DEPENDENCIES: Final = ("pydantic", "pyroaring", "qemu.qmp")
NOT_IN_A_CASE: Final = (
    *("diff/*", "kit/*", "record/*", "report/*"),
    *("cli/demo/*", "cli/chain*", "cli/diff.py", "cli/job_*", "cli/prove.py", "cli/qmp.py"),
    *("cli/report.py", "cli/watch.py"),
    *("prove/causes.py", "prove/cluster.py", "prove/findings.py", "prove/order.py"),
    *("prove/page.py", "prove/pool.py", "prove/rehearsal.py", "prove/report.py"),
    *("prove/store.py", "prove/sweep.py", "prove/wording.py"),
)
"""Modules that no case uses: what they do changes no verdict."""


class StoreError(Exception):
    """The file is no store."""


class Store:
    """The verdicts of one scenario as it is now."""

    def __init__(self, path: Path, scenario: Scenario) -> None:
        """Open the file or make it; raises ``StoreError``."""
        self._digest = digest_of(scenario)
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute(_TABLE)
        except sqlite3.Error as error:
            raise StoreError(f"{path}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def find(self, case: Case) -> Result | None:
        """Return what is known of a case."""
        query = "SELECT result FROM verdicts WHERE of = ?"
        row = self._database.execute(query, (self._key(case),)).fetchone()
        return None if row is None else _RESULT.validate_json(row[0])

    def put(self, result: Result) -> None:
        """Keep what a case shows."""
        text = _RESULT.dump_json(result).decode()
        values = (self._key(result.case), text)
        self._database.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", values)

    def _key(self, case: Case) -> str:
        return f"{self._digest} {case}"


def digest_of(scenario: Scenario) -> str:
    """Return the digest of all that verdicts depend on."""
    found = hashlib.sha256(scenario.model_dump_json().encode())
    found.update(sys.version.encode())
    for name in DEPENDENCIES:
        found.update(f"{name} {version(name)}".encode())
    for name in behaving_modules():
        found.update(f"{name}\n{behaviour_of((_PACKAGE / name).read_text())}\n".encode())
    for path in sorted(_tool(scenario)):
        found.update(path.read_bytes())
    return found.hexdigest()


def behaving_modules() -> list[str]:
    """Return the files of blkxact whose code runs in a case, below the package, in order."""
    names = sorted(str(path.relative_to(_PACKAGE)) for path in _PACKAGE.rglob("*.py"))
    return [name for name in names if not any(fnmatch(name, one) for one in NOT_IN_A_CASE)]


def behaviour_of(source: str) -> str:
    """Return the code of a module without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [each for each in node.body if not _is_text(each)]
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    is_constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_constant and isinstance(node.value.value, str)  # type: ignore[attr-defined]


def _tool(scenario: Scenario) -> Iterator[Path]:
    for path in scenario.files():
        yield path
        if path.suffix == ".py":
            yield from path.parent.rglob("*.py")
