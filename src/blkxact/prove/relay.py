"""The program that stands in for the emulator where the tool starts it, or the tool's libvirt.

It hands its words, and the sockets that it was started with, to whoever runs the case, which makes
the emulator as always. To those who started it, it looks like the emulator: it ends as that ends,
and passes on the signals that it gets.

Without ``VARIABLE`` in its environment, as when libvirt asks what the emulator can do, it becomes
the ordinary program. It loads nothing of blkxact: libvirt waits for it.

Messages are packets on a Unix socket. The first one has texts with zero bytes between: the
directory, the numbers of descriptors with commas between, and the words; it brings the descriptors
along. After that this process sends signals, one byte each. It receives one packet: ``ENDED`` and
the status, ``REFUSED`` and what to print, or ``ORDINARY``; none, and the end of the connection, if
the emulator was killed.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from contextlib import suppress
from types import FrameType
from typing import Final, NoReturn

VARIABLE: Final = "BLKXACT_PROVE"
"""The variable of the environment that names the socket of the case."""
EMULATE: Final = "BLKXACT_EMULATE"
"""The one that says which QEMU the ordinary program has to be."""
ENDED: Final = b"E"
REFUSED: Final = b"R"
ORDINARY: Final = b"O"
MAX_PACKET: Final = 128 << 10
"""Bytes."""
_FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_DESCRIPTOR: Final = re.compile(r"(?<![a-z])fd=(\d+)")


def main(ordinary: str, release: str) -> NoReturn:
    """Stand in for the emulator; ``ordinary`` is the path of the ordinary program."""
    path = os.environ.get(VARIABLE)
    answer = _stand_in(path) if path else ORDINARY
    if answer == ORDINARY:
        os.environ[EMULATE] = release
        os.execv(ordinary, [ordinary, *sys.argv[1:]])  # noqa: S606 - the emulator itself
    if not answer:
        os.kill(os.getpid(), signal.SIGKILL)
    if answer[:1] == REFUSED:
        os.write(2, answer[1:] + b"\n")
        sys.exit(1)
    sys.exit(answer[1])


def _stand_in(path: str) -> bytes:
    """Hand over what this process was started with; return the answer."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def forward(number: int, frame: FrameType | None) -> None:
        del frame
        with suppress(OSError):  # it has just ended
            channel.send(bytes([number]))

    try:
        channel.connect(path)
    except OSError as error:
        return REFUSED + f"{VARIABLE}={path}: {error.strerror}".encode()
    words = sys.argv[1:]
    descriptors = sorted({int(number) for word in words for number in _DESCRIPTOR.findall(word)})
    request = [os.getcwd(), ",".join(map(str, descriptors)), *words]  # noqa: PTH109
    for number in _FORWARDED:
        signal.signal(number, forward)
    socket.send_fds(channel, [b"\0".join(map(os.fsencode, request))], descriptors)
    for each in descriptors:
        os.close(each)  # a socket that listens must not outlive the emulator
    try:
        return channel.recv(MAX_PACKET)
    except ConnectionResetError:
        return b""
