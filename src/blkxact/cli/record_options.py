"""``--record`` and ``--record-limit``: what is kept of a run, and how large it may become."""

from __future__ import annotations

from collections.abc import Callable

from blkxact.machine.options import ServeOptions

from .errors import CliError

MIN_LIMIT = 4 << 10
"""Bytes."""


def parse_record_limit(text: str) -> int:
    """Return a size in bytes; raises ``CliError``."""
    from blkxact.qapi.sizes import human_size  # noqa: PLC0415 - few give a limit

    from .sizes import parse_size  # noqa: PLC0415

    size = parse_size(text)
    if size < MIN_LIMIT:
        raise CliError(f"a record takes {human_size(MIN_LIMIT)} at the least")
    return size


def record_words(options: ServeOptions) -> dict[str, Callable[[str], None]]:
    """Return what each option does with its argument, by name."""

    def record(path: str) -> None:
        options.record = path

    def limit(text: str) -> None:
        options.record_limit = parse_record_limit(text)

    return {"record": record, "record-limit": limit}
