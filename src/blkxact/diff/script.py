"""A script: what is sent to both programs, a line at a time.

A line is one of

* ``image WORDS``: makes an image, as ``blkxact image WORDS`` does, before the programs start;
* ``restart``: both programs quit and start again, in the same directories;
* anything else: sent to the monitor as it is, so it may also be malformed. It has to be complete
  (what follows must be read as a new message).

Empty lines and lines that start with ``#`` are skipped. A job whose id starts with ``slow`` needs a
``speed`` that keeps it from ending: it may be running when the next command is sent, after its
first piece. ``slow-none`` may be running even before. All others are waited for until they rest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blkxact.qmp.json_text import encode_text

IMAGE = "image "
RESTART = "restart"
SLOW = "slow"
"""How the ids of jobs begin that are not waited for."""
ENDLESS = f"{SLOW}-none"
"""The id of a job that only copies what a guest writes."""


@dataclass(frozen=True, slots=True)
class Script:
    """The lines of a script."""

    images: tuple[str, ...]
    """Arguments of ``blkxact image``, one string each."""
    steps: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Script:
        """Read a script."""
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        return cls(
            tuple(line.removeprefix(IMAGE) for line in lines if line.startswith(IMAGE)),
            tuple(line for line in lines if not line.startswith(IMAGE)),
        )

    @classmethod
    def load(cls, path: Path) -> Script:
        """Read a file. Raises ``OSError``."""
        return cls.parse(path.read_text())

    def with_steps(self, steps: Sequence[str]) -> Script:
        """Return the same images with other steps."""
        return Script(self.images, tuple(steps))

    def __str__(self) -> str:
        """Return the lines, to be run again."""
        return "".join(f"{line}\n" for line in (*(IMAGE + i for i in self.images), *self.steps))


def command(name: str, /, **arguments: Any) -> str:
    """Return the line of a QMP command; ``_`` in names stands for ``-``."""
    members = {key.replace("_", "-"): value for key, value in arguments.items()}
    return encode_text({"execute": name, "arguments": members})


def name_of(line: str) -> str:
    """Return the name of the command in a line; ``(malformed)`` if it is none."""
    try:
        return str(json.loads(line)["execute"])
    except (ValueError, KeyError, TypeError):
        return "(malformed)"
