"""The tool under test: a group of processes for each call, ended as a group.

A command that begins with the interpreter can run in a fork of this process, which has loaded what
it needs: a call then takes milliseconds instead of the start of an interpreter.
"""

from __future__ import annotations

import gc
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from blkxact.storage.libc import die_with_parent

MAX_DESCRIPTORS: Final = 1 << 16
GROUP_FILE: Final = "tool.group"
"""The number of the tool's process group, in the directory in which it runs."""
LAST_LINES: Final = 3
"""Lines of what the tool printed that are shown."""
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_TICKS: Final = (13, 14)
"""Fields of /proc/PID/task/TID/stat, from 0: the processor time of a thread."""


class StartError(Exception):
    """The tool cannot be started."""


class Call:
    """A running call."""

    def __init__(
        self, words: Sequence[str], cwd: Path, output: Path, environment: Mapping[str, str],
        *, fork: bool,
    ) -> None:  # fmt: skip
        """Start it; raises ``StartError``."""
        self._output = output
        fork = fork and words[0] == sys.executable and len(words) > 1
        start = _fork if fork else _spawn
        with output.open("ab") as log:
            self._start_of_output = log.tell()
            self.pid = start(list(words), cwd, log.fileno(), dict(environment))
        self.pidfd = os.pidfd_open(self.pid)
        self.status: int | None = None

    def reap(self) -> int:
        """Return the exit status of the call, which has ended; less than 0 for a signal."""
        if self.status is None:
            self.kill()
            _, status = os.waitpid(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(status)
            os.close(self.pidfd)
        return self.status

    def kill(self, *, wait: bool = False) -> None:
        """End all processes of the call; ``wait`` until the first of them has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if wait and self.status is None:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def printed(self) -> str:
        """Return the last lines that the call printed."""
        with self._output.open("rb") as log:
            log.seek(self._start_of_output)
            lines = _COLOUR.sub("", log.read().decode(errors="replace")).split("\n")
        return "\n".join([line for line in lines if line.strip()][-LAST_LINES:])


def processor_time(pid: int) -> int:
    """Return the ticks that a process and all below it have used, or -1 if one works right now.

    Each thread counts: it may wait for a disk while the first one of its process sleeps.
    """
    tasks = Path("/proc", str(pid), "task")
    ticks = 0
    with suppress(OSError):  # the process ends meanwhile
        for task in tasks.iterdir():
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            children = (task / "children").read_text().split()
            used = [sum(int(fields[field - 2]) for field in _TICKS)]
            used += map(processor_time, map(int, children))
            if fields[0] in "RD" or -1 in used:
                return -1
            ticks += sum(used)
    return ticks


def _spawn(words: list[str], cwd: Path, log: int, environment: dict[str, str]) -> int:
    try:
        process = subprocess.Popen(  # noqa: S603 - the tool, as the scenario says
            words,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
            preexec_fn=partial(_begin, os.getpid(), cwd),  # noqa: PLW1509 - there is one thread
        )
    except OSError as error:
        raise StartError(f"{words[0]}: {error.strerror}") from error
    process.returncode = 0  # it is waited for by its number
    return process.pid


def _begin(worker: int, cwd: Path) -> None:
    """Begin the first process of a call: whoever outlives the worker finds its group."""
    die_with_parent(signal.SIGKILL, worker)
    Path(cwd, GROUP_FILE).write_text(str(os.getpid()))


def _fork(words: list[str], cwd: Path, log: int, environment: dict[str, str]) -> int:
    worker = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setpgid(0, 0)
            _begin(worker, cwd)
            status = _run_script(words, cwd, log, environment)
        except BaseException:  # noqa: BLE001 - a fork must never go on in the worker's code
            traceback.print_exc()
        finally:
            os._exit(status)
    with suppress(PermissionError, ProcessLookupError):
        os.setpgid(pid, pid)  # whichever of the two is first
    return pid


def _run_script(words: list[str], cwd: Path, log: int, environment: dict[str, str]) -> int:
    """Be the interpreter that runs a script."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.closerange(3, MAX_DESCRIPTORS)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # as TMPDIR says, and not as the worker has found out
    gc.freeze()
    sys.dont_write_bytecode = True
    sys.argv[:] = words[1:]
    sys.path.insert(0, str(Path(words[1]).parent))
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - as at a start
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    try:
        runpy.run_path(words[1], run_name="__main__")
    except SystemExit as exit_:
        return _status_of(exit_.code)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
    return 0


def _status_of(code: object) -> int:
    if isinstance(code, int):
        return code & 0xFF
    if code is None:
        return 0
    print(code, file=sys.stderr)  # noqa: T201 - what the interpreter does
    return 1
