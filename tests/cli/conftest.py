"""A daemon that the command line talks to."""

from __future__ import annotations

import os
import signal

import pytest
from cli_runs import blkxact_process, wait_until_gone

MIB = 1 << 20


@pytest.fixture
def daemon(image_dir):
    """A daemon in the background with disks of zeroes; gives the path of its socket.

    ``disk`` and ``target`` work, writes to ``broken`` fail.
    """
    socket, pidfile = image_dir / "qmp.sock", image_dir / "pid"
    done = blkxact_process(
        "serve", "--daemonize", "--pidfile", pidfile, "--qmp", f"unix:{socket},server=on,wait=off",
        "--blockdev", f"null-co,node-name=disk,size={64 * MIB},read-zeroes=on",
        "--blockdev", f"null-co,node-name=target,size={64 * MIB}",
        "--blockdev", f"blkdebug,node-name=broken,image.driver=null-co,image.size={64 * MIB},"
        "inject-error.0.event=none,inject-error.0.iotype=write,inject-error.0.errno=5",
        "--blockdev", f"null-co,node-name=full,size={64 * MIB}",
    )  # fmt: skip
    assert (done.status, done.out, done.err) == (0, "", "")
    yield socket
    if pidfile.exists():
        os.kill(int(pidfile.read_text()), signal.SIGTERM)
        wait_until_gone(pidfile)
