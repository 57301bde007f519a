"""``python -m fuzz TARGET [options of libFuzzer]``: look for more with atheris."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["blkxact"]):
    from fuzz.recipe import MAX_RECIPE
    from fuzz.targets import TARGETS, random_input

CORPUS = Path(__file__).parent.parent / "tests" / "fuzz" / "corpus"
STARTS = 200
"""Inputs made at random that a run begins with."""


def main() -> None:
    """Run one target until something is found, or libFuzzer's options say that it is enough."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m fuzz TARGET [libFuzzer options]; targets: {', '.join(TARGETS)}")
    target = sys.argv.pop(1)
    work = Path(".fuzz") / target
    work.mkdir(parents=True, exist_ok=True)
    source = random.Random(0)
    for number in range(STARTS):
        (work / f"start-{number}").write_bytes(random_input(target, source))
    known = [str(path) for path in (work, CORPUS / target) if path.is_dir()]
    options = ["-timeout=20", "-rss_limit_mb=3072", f"-artifact_prefix={work.parent}/{target}-"]
    if target.startswith("qcow2") and target != "qcow2_bytes":
        options.append(f"-max_len={MAX_RECIPE}")
    atheris.Setup([sys.argv[0], *options, *sys.argv[1:], *known], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
