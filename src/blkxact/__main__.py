"""The programs: ``blkxact`` (also ``python -m blkxact``) and those that stand in for QEMU's.

Invariant: what the environment adds to Python's path comes last. A ``PYTHONPATH`` or a current
directory that is meant for other programs (QEMU's tests set one with a package ``qemu``) hides
neither the standard library nor what blkxact needs.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run ``blkxact``."""
    return _run("main", "blkxact")


def system() -> int:
    """Run ``blkxact-system-x86_64``, in place of qemu-system-x86_64."""
    return _run("system", _own_name())


def storage_daemon() -> int:
    """Run ``blkxact-storage-daemon``, in place of qemu-storage-daemon."""
    return _run("serve", _own_name())


def _own_name() -> str:
    return sys.argv[0].rpartition("/")[2]


def _run(command: str, program: str) -> int:
    """Run the command line ``cli.<command>``; ctrl-C is quiet from the first moment on."""
    _put_foreign_paths_last()
    try:
        from importlib import import_module  # noqa: PLC0415 - after the path is put right

        from blkxact.runtime import start  # noqa: PLC0415

        start.begin()
        status: int = import_module(f"blkxact.cli.{command}").main(sys.argv[1:], program)
        start.leave(status)
    except KeyboardInterrupt:
        return 130
    return status


def _put_foreign_paths_last() -> None:
    foreign: set[str] = set()
    if not sys.flags.ignore_environment:
        foreign.update(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    if not sys.flags.safe_path and sys.path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109
        foreign.add(sys.path[0])
    sys.path.sort(key=foreign.__contains__)  # a stable sort


if __name__ == "__main__":
    sys.exit(main())
