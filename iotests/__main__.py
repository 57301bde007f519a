"""``python -m iotests [NAME ...]``: run scenarios with their narration.

A name is that of a file without ``test_`` and ``.py``; none means all. Words that begin with a
dash, and what follows them, go to pytest: ``python -m iotests failure -k grouped``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def main(words: list[str]) -> int:
    """Run the scenarios that ``words`` name; return pytest's exit status."""
    options = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    files = [HERE / f"test_{name}.py" for name in words[:options]]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        names = sorted(file.stem.removeprefix("test_") for file in HERE.glob("test_*.py"))
        print(f"There is no {', '.join(missing)}; there are {', '.join(names)}", file=sys.stderr)
        return 2
    chosen = [str(file) for file in files or [HERE]]
    return pytest.main(["-v", "-s", "--no-header", *words[options:], *chosen])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
