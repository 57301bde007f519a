"""Commands that are at home nowhere else.

QEMU's counterpart: ``qapi/misc.json``. The commands without arguments (``query-name``, ``stop``,
``cont``) use ``common.NoArguments``.
"""

from __future__ import annotations

from .common import Int, Opt, QapiModel


class HumanMonitorCommand(QapiModel):
    """human-monitor-command."""

    command_line: str
    cpu_index: Opt[Int] = None


class FdName(QapiModel):
    """getfd, closefd."""

    fdname: str


class AddFd(QapiModel):
    """add-fd."""

    fdset_id: Opt[Int] = None
    opaque: Opt[str] = None


class RemoveFd(QapiModel):
    """remove-fd."""

    fdset_id: Int
    fd: Opt[Int] = None


class CommandLineOptions(QapiModel):
    """query-command-line-options."""

    option: Opt[str] = None
