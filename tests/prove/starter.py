"""Starts the emulator of a case, in place of libvirt, and does things to it.

starter.py start DIR EMULATOR WORD...   start it with a socket that listens, and leave it running
starter.py retry DIR EMULATOR WORD...   the same, after a try that is killed at once
starter.py hold DIR EMULATOR WORD...    start it, and leave a process that stays connected to it
starter.py end DIR                      end it and start it again, twice; report how it ended
starter.py kill DIR                     kill it
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PATIENCE_S = 30
NOTE = "started.json"


def start(directory: Path, words: list[str], *, hold: bool = False) -> subprocess.Popen[bytes]:
    """Start the emulator; return when it greets, or has ended."""
    path = directory / "qmp"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        fd = listener.fileno()
        chardev = f"socket,id=m,fd={fd},server=on,wait=off"
        process = subprocess.Popen(
            [*words, "-chardev", chardev, "-mon", "m,mode=control"],
            pass_fds=[fd],
            start_new_session=True,
        )
    (directory / NOTE).write_text(json.dumps([process.pid, words]))
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        try:
            client.connect(str(path))
            client.recv(1)
        except OSError:
            process.wait(PATIENCE_S)
        if hold:
            words = ["sleep", "1000"]
            left = subprocess.Popen(words, pass_fds=[client.fileno()], start_new_session=True)
            (directory.parent / "left").write_text(str(left.pid))
    return process


def try_in_vain(directory: Path, words: list[str]) -> None:
    """Do as a program that stands in for the emulator and is killed as soon as it has said so."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.connect(os.environ["BLKXACT_PROVE"])
        channel.send("\0".join([str(directory), "", *words[1:]]).encode())


def wait_until_gone(pid: int) -> None:
    """Wait for the end of a process that is not ours."""
    end = time.monotonic() + PATIENCE_S
    while Path("/proc", str(pid), "exe").exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def main() -> int:
    """Do it; a call that is to claim no backup exits with 1."""
    verb, place, *words = sys.argv[1:]
    directory = Path(place)
    if verb == "retry":
        try_in_vain(directory, words)
    if verb in ("start", "retry", "hold"):
        return start(directory, words, hold=verb == "hold").poll() or 0
    pid, words = json.loads((directory / NOTE).read_text())
    os.kill(pid, signal.SIGTERM if verb == "end" else signal.SIGKILL)
    wait_until_gone(pid)
    if verb == "end":
        process = start(directory, words)
        process.terminate()
        print("it ended with", process.wait(PATIENCE_S))
        start(directory, words)
    return 1


if __name__ == "__main__":
    sys.exit(main())
