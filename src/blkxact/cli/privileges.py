"""What a daemon gives up once all is made: its root directory, and the rights of its user.

Invariant: nothing has to be loaded after that, because the new user may not be able to read the
modules, and the new root has none.

QEMU's counterpart: ``os-posix.c`` (change_root, change_process_uid).
"""

from __future__ import annotations

import contextlib
import os
from importlib import import_module
from typing import Final, NamedTuple

from blkxact.machine.options import ServeOptions
from blkxact.runtime import start
from blkxact.runtime.release import Release

from .errors import CliError
from .guest_members import check_values
from .keyval import parse_opts, parse_switch

_OTHER_PROGRAMS: Final = frozenset(
    {"__main__", "cli", "diff", "harness", "kit", "prove", "report", "testing"}
)
"""Parts of the package that a daemon does without."""
_ALSO: Final = (
    *("blkxact.cli.drive", "blkxact.cli.serve_log"),
    *("concurrent.futures.thread", "ctypes", "datetime", "encodings.idna", "hashlib"),
    *("ipaddress", "random", "tempfile", "threading", "unicodedata"),
    *("backports.zstd", "compression.zstd"),
)
"""What is loaded when it is first needed; not every Python has the last ones."""


class User(NamedTuple):
    """Who a process becomes; ``name`` is None if only numbers were given."""

    uid: int
    gid: int
    name: str | None


def find_user(text: str, shown: str | None = None) -> User:
    """Return the user of that name, or of ``UID:GID``; raises ``CliError`` with ``shown``."""
    import pwd  # noqa: PLC0415 - few ask for it

    try:
        found = pwd.getpwnam(text)
    except KeyError:
        uid, colon, gid = text.partition(":")
        if colon and uid.isdecimal() and gid.isdecimal():
            return User(int(uid), int(gid), None)
        name = text if shown is None else shown
        raise CliError(f'User "{name}" doesn\'t exist (and is not <uid>:<gid>)') from None
    return User(found.pw_uid, found.pw_gid, found.pw_name)


def take_run_with(text: str, options: ServeOptions) -> None:
    """Read the argument of ``-run-with``; raises ``CliError``."""
    members = parse_opts(text)
    for name in members:
        if name != "id" and not _has_member(name, options.release):
            raise CliError(f"Invalid parameter '{name}'")
    check_values("run-with", members)
    options.chroot = members.get("chroot", options.chroot)
    if parse_switch("exit-with-parent", members.get("exit-with-parent", "off")):
        options.exits_with_parent = True
    if "user" in members:
        find_user(members["user"], text)  # QEMU names all of the argument
        options.run_as = members["user"]


def _has_member(name: str, release: Release) -> bool:
    from blkxact.machine.option_groups import parameters  # noqa: PLC0415 - few ask for it

    return name in parameters("run-with", release)


def give_up(chroot: str | None, user: User | None) -> None:
    """Change the root directory and become a user, as far as asked for; raises ``CliError``."""
    if chroot is None and user is None:
        return
    load_everything()
    if chroot is not None:
        _change_root(chroot)
    if user is not None:
        _become(user)


def load_everything() -> None:
    """Load all modules that a daemon may need later."""
    start.load_the_rest()
    import pkgutil  # noqa: PLC0415 - few ask for it

    import blkxact  # noqa: PLC0415

    for part in pkgutil.iter_modules(blkxact.__path__):
        if part.name in _OTHER_PROGRAMS:
            continue
        module = import_module(f"blkxact.{part.name}")
        if part.ispkg:
            for inner in pkgutil.walk_packages(module.__path__, f"{module.__name__}."):
                import_module(inner.name)
    for name in _ALSO:
        with contextlib.suppress(ImportError):
            import_module(name)


def _change_root(path: str) -> None:
    try:
        os.chroot(path)
    except OSError as error:
        raise CliError("chroot failed") from error
    os.chdir("/")


def _become(user: User) -> None:
    """Give up all rights but those of ``user``; raises ``CliError``."""
    doing = f"setgid({user.gid})"
    try:
        os.setgid(user.gid)
        if user.name is None:
            doing = f"setgroups(1, [{user.gid}])"
            os.setgroups([user.gid])
        else:
            doing = f'initgroups("{user.name}", {user.gid})'
            os.initgroups(user.name, user.gid)
        doing = f"setuid({user.uid})"
        os.setuid(user.uid)
    except OSError as error:
        raise CliError(f"Failed to {doing}") from error
