"""A backup tool that reads a disk from the NBD server: ``nbd_tool.py QMP DISK DIR OUT PATIENCE``.

It waits at most PATIENCE seconds for the copy, and leaves a file in DIR if it fails.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Back up; return the exit status."""
    path, disk, directory, out, patience = sys.argv[1:]
    server = Path(directory, "nbd.sock")
    note = Path(directory, f"note-{os.getpid()}")
    monitor = socket.socket(socket.AF_UNIX)
    monitor.connect(path)
    lines = monitor.makefile("rw")
    lines.readline()

    def execute(command: str, **arguments: object) -> None:
        lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        lines.flush()
        while "event" in (answer := json.loads(lines.readline())):
            pass
        if "error" in answer:
            raise SystemExit(answer["error"]["desc"])

    execute("qmp_capabilities")
    execute("nbd-server-start", addr={"type": "unix", "data": {"path": str(server)}})
    note.touch()
    execute("block-export-add", type="nbd", id="e", name=disk, **{"node-name": disk})
    url = f"nbd+unix:///{disk}?socket={server}"
    words = ["qemu-img", "convert", "-O", "raw", url, out]
    try:
        done = subprocess.run(words, check=False, timeout=float(patience)).returncode == 0
    except subprocess.TimeoutExpired:
        done = False
    execute("nbd-server-stop")
    if done:
        note.unlink()
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
