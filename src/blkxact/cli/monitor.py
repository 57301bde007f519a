"""``-mon`` of qemu-system and ``--monitor`` of the storage daemon: words to ``MonitorOptions``.

QEMU's counterpart: ``monitor_init_opts()`` and ``monitor_init()`` in ``monitor/monitor.c``.
"""

from __future__ import annotations

from typing import Literal, cast

from blkxact.machine.options import MonitorOptions

from .errors import CliError
from .keyval import parse_opts, parse_switch
from .members import members_of

Mode = Literal["control", "readline"]


def parse_mon(text: str) -> MonitorOptions:
    """Return the monitor of ``-mon``, which is for people unless it says otherwise.

    Raises ``CliError``.
    """
    options = parse_opts(text, implied_key="chardev")
    unknown = options.keys() - {"id", "mode", "chardev", "pretty"}
    if unknown:
        raise CliError(f"Invalid parameter '{min(unknown)}'")
    pretty = parse_switch("pretty", options.get("pretty", "off"))
    return _checked(options.get("chardev"), options.get("id"), options.get("mode"), pretty=pretty)


def parse_monitor(text: str) -> MonitorOptions:
    """Return the monitor of ``--monitor``, which is always QMP; raises ``CliError``."""
    members = members_of(text, "chardev")
    unknown = members.keys() - {"chardev", "id", "mode", "pretty"}
    if unknown:
        raise CliError(f"Parameter '{min(unknown)}' is unexpected")
    pretty = members.get("pretty", False)
    if pretty not in ("on", "off", True, False):
        raise CliError("Parameter 'pretty' expects 'on' or 'off'")
    options = _checked(
        members.get("chardev"),
        members.get("id"),
        members.get("mode", "control"),
        pretty=pretty in ("on", True),
    )
    if options.mode != "control":
        raise CliError("Only QMP is supported")
    return options


def _checked(
    chardev: str | None, ident: str | None, mode: str | None, *, pretty: bool
) -> MonitorOptions:
    if mode not in (None, "control", "readline"):
        raise CliError(f"Parameter 'mode' does not accept value '{mode}'")
    if chardev is None:
        raise CliError("Parameter 'chardev' is missing")
    if mode != "control" and pretty:
        raise CliError("'pretty' is not compatible with HMP monitors")
    return MonitorOptions(chardev, ident, cast("Mode", mode or "readline"), pretty)
