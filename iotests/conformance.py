r"""Writes ``docs/conformance.md``: which of QEMU's own iotests pass, and why the others do not.

    python -m iotests.conformance --revision REV --newer REV RESULTS_OF_10.0 RESULTS... \
        > docs/conformance.md

``REV`` is the revision of blkxact that was run. ``RESULTS`` are the outputs of the script that runs
QEMU's iotests (``docs/testing.md``): one line a test, ``NAME pass|fail|skip DETAIL``. Of several
lines of one test the last counts. Tests that are in ``REASONS`` and in no output are listed as not
run.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

HERE: Final = Path(__file__).parent
_LINE: Final = re.compile(r"(\S+) (pass|fail|skip)\b(.*)")
_CASES: Final = re.compile(r"(\d+)/(\d+) cases")


def _read_reasons(name: str) -> dict[str, str]:
    lines = (HERE / name).read_text().splitlines()
    return dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))


REASONS: Final = _read_reasons("conformance-reasons.txt")
"""Why a test does not pass, in a few words."""
REASONS_OF_10_0: Final = _read_reasons("conformance-reasons-10.0.txt")
"""The same of QEMU 10.0's."""


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


def table(results: dict[str, Result], reasons: Mapping[str, str] = REASONS) -> list[str]:
    """Return the lines of the table, in the order of names."""
    rows = ["| test | result | cases | reason |", "|---|---|---|---|"]
    for name in sorted({*results, *reasons}):
        result = results.get(name, Result("not run", ""))
        reason = "" if result.outcome == "pass" else reasons.get(name, "not looked into yet")
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


def newer_section(results: dict[str, Result], revision: str, day: str) -> str:
    """Return the part about QEMU 10.0."""
    passed = sum(result.outcome == "pass" for result in results.values())
    intro = (
        "\n## QEMU 10.0\n\n"
        "Tests of QEMU 10.0's tree (7c949c53e9), unmodified, with `--emulate 10.0` and the\n"
        "qemu-img, qemu-io and qemu-nbd of QEMU 10.0. Not all tests of that tree were tried.\n\n"
        f"{day}, revision {revision}: {passed} of {len(results)} tests pass.\n\n"
    )
    return intro + "\n".join(table(results, REASONS_OF_10_0)) + "\n"


def main(words: list[str]) -> None:
    """Print the page for these outputs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--revision", required=True)
    parser.add_argument("--newer", nargs=2, metavar=("REVISION", "RESULTS"))
    parser.add_argument("results", nargs="+")
    options = parser.parse_args(words)
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    sys.stdout.write(page(_read(options.results), options.revision, day))
    if options.newer is not None:
        revision, path = options.newer
        sys.stdout.write(newer_section(_read([path]), revision, day))


def _read(paths: list[str]) -> dict[str, Result]:
    return read_results(line for path in paths for line in Path(path).read_text().splitlines())


if __name__ == "__main__":
    main(sys.argv[1:])
