"""Writes ``docs/conformance.md``: which of QEMU's own iotests pass, and why the others do not.

    python -m iotests.conformance RESULTS... > docs/conformance.md

``RESULTS`` are the outputs of the script that runs QEMU's iotests (``docs/testing.md``): one line
a test, ``NAME pass|fail|skip DETAIL``. Of several lines of one test the last counts. Tests that are
in ``REASONS`` and in no output are listed as not run.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

HERE: Final = Path(__file__).parent
_LINE: Final = re.compile(r"(\S+) (pass|fail|skip)\b(.*)")
_CASES: Final = re.compile(r"(\d+)/(\d+) cases")

REASONS: Final = dict(
    line.split(" ", 1)
    for line in (HERE / "conformance-reasons.txt").read_text().splitlines()
    if line and not line.startswith("#")
)
"""Why a test does not pass, in a few words."""


class Result(NamedTuple):
    """What became of a test; ``cases`` are those that passed, and all, where a test has any."""

    outcome: str
    cases: str


def read_results(lines: Iterable[str]) -> dict[str, Result]:
    """Return the last result of each test."""
    results: dict[str, Result] = {}
    for line in lines:
        found = _LINE.match(line)
        if found:
            cases = _CASES.search(found[3])
            results[found[1]] = Result(found[2], f"{cases[1]}/{cases[2]}" if cases else "")
    return results


def table(results: dict[str, Result]) -> list[str]:
    """Return the lines of the table, in the order of names."""
    rows = ["| test | result | cases | reason |", "|---|---|---|---|"]
    for name in sorted({*results, *REASONS}):
        result = results.get(name, Result("not run", ""))
        reason = "" if result.outcome == "pass" else REASONS.get(name, "not looked into yet")
        rows.append(f"| {name} | {result.outcome} | {result.cases} | {reason} |")
    return rows


def page(results: dict[str, Result], revision: str, day: str) -> str:
    """Return the whole page."""
    rows = table(results)
    passed = sum(result.outcome == "pass" for result in results.values())
    intro = (
        "# QEMU's own iotests\n\n"
        "QEMU 7.2's iotests (`tests/qemu-iotests`), unmodified, with `blkxact-system-x86_64` and\n"
        "`blkxact-storage-daemon` in place of QEMU's programs and with the real `qemu-img`,\n"
        "`qemu-io` and `qemu-nbd`. [testing.md](testing.md) says how to run them.\n\n"
        f"{day}, revision {revision}: {passed} of {len(rows) - 2} tests pass.\n\n"
        "Made by `python -m iotests.conformance`; the reasons are in\n"
        "`iotests/conformance-reasons.txt`.\n\n"
    )
    return intro + "\n".join(rows) + "\n"


def main(paths: list[str]) -> None:
    """Print the page for these outputs."""
    lines = [line for path in paths for line in Path(path).read_text().splitlines()]
    revision = subprocess.run(
        ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    sys.stdout.write(page(read_results(lines), revision, f"{datetime.now(UTC):%Y-%m-%d}"))


if __name__ == "__main__":
    main(sys.argv[1:])
