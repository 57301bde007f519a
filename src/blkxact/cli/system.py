"""``blkxact system`` and ``blkxact-system-x86_64``: the command line of qemu-system-x86_64.

Programs that start a whole QEMU, QEMU's own tests among them, can start this in its place.
``system_options`` is the table of all options; ``system_line`` is what is done with them.

QEMU's counterpart: ``softmmu/vl.c``.
"""

from __future__ import annotations

from collections.abc import Sequence

from .boundary import run_command
from .process import run_daemon
from .system_line import CommandLine


def main(words: Sequence[str], program: str) -> int:
    """Run as a program of its own, which calls itself ``program`` in messages."""
    return run_command(program, lambda: start(words, program))


def start(words: Sequence[str], program: str, called: str | None = None) -> int:
    """Answer a question, or serve until ``quit`` or a signal.

    ``called`` is how a person starts it, for ``-help``.
    """
    command_line = CommandLine(program, called or program)
    options = command_line.parse(words)
    if command_line.answer is not None:
        print(command_line.answer, end="")
        return 0
    return int(not run_daemon(options))
