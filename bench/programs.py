"""Programs that run once and end: how long they take, and what of the processor and the memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .harness import BLKXACT, QEMU, BenchError, Figure, environment

OWN_PROGRAM = (str(Path(sys.executable).with_name("blkxact")),)
"""What ``pip`` installed beside this Python, and a person runs."""
MIB = 1 << 20

Words = Sequence[str | Path]


_LAUNCHER = """
import os, sys, time
begin = time.perf_counter()
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, used = os.wait4(pid, 0)
print(time.perf_counter() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss)
print(os.waitstatus_to_exitcode(status))
"""
"""Runs a program and prints what ``Run`` has, and its status. A process of its own, as Linux counts
the resident bytes of the process that starts a program as the program's (``getrusage``)."""


class Run(NamedTuple):
    """What one run of a program took."""

    seconds: float
    cpu_seconds: float
    """Of the program and of all it started, in user and system mode."""
    memory: int
    """Resident bytes at the most."""


def run_once(words: Words) -> Run:
    """Run a program to its end; raises ``BenchError`` if it fails."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _LAUNCHER, *(os.fspath(word) for word in words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
        env=environment(),
    )
    seconds, cpu_seconds, kib, code = done.stdout.split()
    if int(code):
        last = done.stderr.strip().splitlines() or ["it said nothing"]
        raise BenchError(f"{' '.join(map(str, words))}: {last[-1]}")
    return Run(float(seconds), float(cpu_seconds), int(kib) * 1024)


class Race:
    """A program and QEMU's beside it, in turns."""

    def __init__(self, title: str, *, must: float | None = None) -> None:
        self.wall = Figure(title, "ms", more_is_better=False, must=must)
        self.cpu = Figure("... processor time", "ms", more_is_better=False, must=must)
        self.memory = Figure("... memory at the most", "MiB", more_is_better=False)

    @property
    def figures(self) -> list[Figure]:
        """The figures."""
        return [self.wall, self.cpu, self.memory]

    def measure(
        self,
        programs: dict[str, Words],
        turns: int,
        *,
        prepare: Callable[[str], object] = lambda _name: None,
        check: Callable[[str], object] = lambda _name: None,
    ) -> list[Figure]:
        """Run each program once unmeasured and then ``turns`` times; return the figures.

        ``programs`` are the words of each by the server's name. ``prepare`` is called before each
        run, ``check`` after the first.
        """
        for turn in range(-1, turns):
            # Who comes second finds the sources in the cache; so each is the first in turn.
            order = (QEMU, BLKXACT) if turn % 2 else (BLKXACT, QEMU)
            for name in order:
                if name not in programs:
                    continue
                prepare(name)
                done = run_once(programs[name])
                if turn < 0:
                    check(name)
                    continue
                self.wall.add(name, done.seconds * 1000)
                self.cpu.add(name, done.cpu_seconds * 1000)
                self.memory.add(name, done.memory / MIB)
        return self.figures
