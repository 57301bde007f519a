"""``-loadvm``: a snapshot is loaded at the start."""

from __future__ import annotations

import subprocess

from cli_runs import TIMEOUT
from programs import QUIET, SCRIPTS, SYSTEM, run


def test_loadvm_sets_the_disks_back_before_the_first_command(tmp_path):
    image = tmp_path / "a.qcow2"
    assert (
        run(SCRIPTS / "blkxact", "image", "create", "-q", "-f", "qcow2", image, "1M").returncode
        == 0
    )
    words = [SYSTEM, *QUIET, "-monitor", "stdio", "-drive", f"if=none,id=d,file={image}"]

    def told(commands, *more):
        done = subprocess.run(
            [*words, *more],
            input=commands,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )
        return done.returncode, done.stdout, done.stderr

    writes = 'qemu-io d "write -P 1 0 64k"\nsavevm s\nqemu-io d "write -P 2 0 64k"\nquit\n'
    assert told(writes)[0] == 0
    status, output, errors = told('qemu-io d "read -P 1 0 64k"\nquit\n', "-loadvm", "s")
    assert (status, errors) == (0, "")
    assert "read 65536/65536 bytes" in output
    assert "Pattern verification failed" not in output
    status, _, errors = told("", "-loadvm", "none")
    assert status == 1
    assert errors == (
        "blkxact-system-x86_64: Snapshot 'none' does not exist in one or more devices\n"
    )
