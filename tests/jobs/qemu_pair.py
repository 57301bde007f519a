"""The same script of QMP commands run by QEMU and by blkxact: replies, events, and the images."""

from __future__ import annotations

import json
import queue
import re
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Message = dict[str, Any]
WAIT_S = 30
"""How long a message may take before the test fails."""

OPTIONS = ("-machine", "none", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio")
QEMU = ("qemu-system-x86_64", *OPTIONS)
OURS = (sys.executable, "-m", "blkxact", "system", *OPTIONS)


class Emulator:
    """One of the two, on its standard input and output. ``log`` has what it said."""

    def __init__(self, argv: tuple[str, ...], directory: Path) -> None:
        self.log: list[Message] = []
        self._messages: queue.Queue[Message] = queue.Queue()
        self._process = subprocess.Popen(
            argv,
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._next()
        self.execute("qmp_capabilities")
        self.log.clear()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                self._messages.put(json.loads(line))

    def _next(self) -> Message:
        message = self._messages.get(timeout=WAIT_S)
        message.pop("timestamp", None)
        return message

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command; keyword arguments have underscores for dashes. Returns the reply."""
        members = {name.replace("_", "-"): value for name, value in arguments.items()}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"execute": command, "arguments": members}) + "\n")
        while True:
            self.log.append(self._next())
            if self.log[-1].keys() & {"return", "error"}:
                return self.log[-1].get("return")

    def wait_for(self, status: str, job: str = "j") -> None:
        """Read on until the job has had the status."""
        wanted = {"event": "JOB_STATUS_CHANGE", "data": {"id": job, "status": status}}
        while wanted not in self.log:
            self.log.append(self._next())

    def poll(self, ready: Callable[[Any], bool], command: str) -> None:
        """Run a query until its answer is what it should be; only the last is logged."""
        while not ready(self.execute(command)):
            del self.log[-1]

    def close(self) -> None:
        """End the emulator."""
        assert self._process.stdin is not None
        self._process.stdin.write('{"execute": "quit"}\n')
        self._process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        self._process.stdin.close()
        assert self._process.stdout is not None
        self._process.stdout.close()


Script = Callable[[Emulator], None]


def transcript(
    argv: tuple[str, ...], directory: Path, script: Script, *, sort_events: bool = False
) -> list[str]:
    """Return what the emulator said to the script, and what became of the images."""
    emulator = Emulator(argv, directory)
    try:
        script(emulator)
    finally:
        emulator.close()
    lines = [json.dumps(_plain(message), sort_keys=True) for message in emulator.log]
    if sort_events:
        lines.sort()
    images = sorted(directory.glob("*.qcow2"))
    return [re.sub(r"#block\d+", "#block", line) for line in lines] + [
        _describe(image) for image in images
    ]


def _plain(value: Any) -> Any:
    """Return a reply without what differs between runs, and without the lengths of files.

    These differ where QEMU commits zeroes as data.
    """
    if isinstance(value, dict):
        if value.get("format") == "file":
            value = value | {"virtual-size": None}
        return {k: _plain(v) for k, v in value.items() if k not in {"actual-size", "filename"}}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _describe(image: Path) -> str:
    """Return what the header says, what the disk holds, and whether the image is sound."""
    info = json.loads(run_tool("qemu-img", "info", "--output=json", str(image)))
    fmt = info["format"]
    names = ("virtual-size", "backing-filename", "backing-filename-format")
    size = info["virtual-size"]
    read = run_tool("qemu-io", "-r", "-f", fmt, "-c", f"read -v 0 {size}", str(image), check=False)
    data = "".join(line for line in read.splitlines() if "sec" not in line)
    broken = "corrupt" in run_tool("qemu-img", "check", str(image), check=False)
    return json.dumps(
        [image.name, [info.get(name) for name in names], broken, zlib.crc32(data.encode())]
    )


def run_tool(*argv: str, check: bool = True) -> str:
    """Run one of QEMU's tools and return what it printed."""
    return subprocess.run(argv, check=check, capture_output=True, text=True).stdout
