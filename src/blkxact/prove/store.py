"""Verdicts that were found, in an SQLite file: a sweep that was stopped goes on where it was.

A verdict counts as long as nothing changes that it depends on: the scenario, the tool's files that
the scenario names (of a Python script all in its directory), and blkxact itself.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

import blkxact

from .results import Case, Result
from .scenario import Scenario

_TABLE: Final = "CREATE TABLE IF NOT EXISTS verdicts (of TEXT PRIMARY KEY, result TEXT NOT NULL)"
_RESULT: Final = TypeAdapter(Result)


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
    package = Path(blkxact.__file__).parent
    for path in [*sorted(package.rglob("*.py")), *sorted(_tool(scenario))]:
        found.update(path.read_bytes())
    return found.hexdigest()


def _tool(scenario: Scenario) -> Iterator[Path]:
    for path in scenario.files():
        yield path
        if path.suffix == ".py":
            yield from path.parent.rglob("*.py")
