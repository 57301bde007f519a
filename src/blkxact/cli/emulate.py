"""``--emulate``: which QEMU to be."""

from __future__ import annotations

import os

from blkxact.runtime.release import DEFAULT_RELEASE, RELEASES, Release

from .errors import CliError

VARIABLE = "BLKXACT_EMULATE"
"""Environment variable that chooses where the command line does not."""


def check_release(name: str) -> Release:
    """Return the release of that name; raises ``CliError``."""
    if name not in RELEASES:
        raise CliError(f"there are {', '.join(RELEASES)}")
    return RELEASES[name]


def default_release() -> Release:
    """Return the release that the environment asks for, or the default; raises ``CliError``."""
    name = os.environ.get(VARIABLE)
    if not name:
        return DEFAULT_RELEASE
    try:
        return check_release(name)
    except CliError as error:
        raise error.located(f"{VARIABLE}={name}") from error
