"""The bench's results as a Markdown page: machine, versions, one table for each subject.

``make bench`` writes the page, which is committed once for each release: a loss is seen
in its diff.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from .harness import BLKXACT, QEMU, Figure

COLUMNS = ("", "unit", "QEMU", BLKXACT, "better by", "of pairs", "must", "")
NOTE = """\
Medians. "better by" is the median of the pairs' ratios (one sample of each, taken in turns), above
1 in blkxact's favour; "of pairs" has the worst and the best pair, which says how noisy the machine
was. "must" is what issue 13 asks for, of "better by" or of blkxact's figure itself.
docs/performance.md explains the figures.
"""


def number(value: float | None) -> str:
    """Return a figure as people read it."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def cells(figure: Figure) -> list[str]:
    """Return the columns of a row."""
    ratio, ratios = figure.ratio(), figure.ratios()
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}" if len(ratios) > 1 else ""
    wanted = [] if figure.must is None else [f"{figure.must:g}"]
    if figure.limit is not None:
        wanted.append(f"{figure.limit:g} {figure.unit} at the most")
    return [
        figure.name,
        figure.unit,
        number(figure.median(QEMU)),
        number(figure.median(BLKXACT)),
        "-" if ratio is None else f"{ratio:.2f}",
        spread,
        ", ".join(wanted),
        "MISSED" if figure.is_missed() else "",
    ]


def write(path: Path, subjects: Mapping[str, Sequence[Figure]], command: str) -> None:
    """Write the page."""
    lines = ["# Results of the bench", "", f"`{command}`, {_today()}.", ""]
    lines += [f"* {line}" for line in _machine()]
    lines += ["", NOTE]
    for subject, figures in subjects.items():
        if figures:
            lines += [f"## {subject}", "", *_table(map(cells, figures)), ""]
    path.write_text("\n".join(lines).rstrip() + "\n")


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    aligned = ["---", "---", *["---:"] * (len(COLUMNS) - 3), "---"]
    return [f"| {' | '.join(row)} |" for row in (COLUMNS, aligned, *rows)]


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def _machine() -> list[str]:
    """Return what the figures depend on."""
    lines = [
        f"{os.cpu_count()} processors, {_processor()}, {_memory()}",
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        _version("qemu-storage-daemon") or "without QEMU",
        f"blkxact {_git('describe', '--always', '--dirty') or 'without git'}",
        f"load average at the end: {os.getloadavg()[0]:.1f}",
    ]
    if _returns_memory():
        lines.append("free memory goes back to the host, so its next use is slow (docs/adr/0010)")
    return lines


def _returns_memory() -> bool:
    """Return whether a virtio balloon reports free pages (VIRTIO 1.2, 5.5.3: feature bit 5)."""
    devices = Path("/sys/bus/virtio/drivers/virtio_balloon").glob("virtio*/features")
    return any(features.read_text()[5] == "1" for features in devices)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory() -> str:
    words = Path("/proc/meminfo").read_text().split()
    return f"{int(words[1]) >> 20} GiB"


def _version(program: str) -> str:
    if shutil.which(program) is None:
        return ""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]


def _git(*words: str) -> str:
    if shutil.which("git") is None:
        return ""
    here = Path(__file__).parent
    done = subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, check=False)
    return done.stdout.strip()
