"""Ids in options of the older syntax.

QEMU's counterpart: ``id_wellformed()`` in ``util/id.c``.
"""

from __future__ import annotations

import re
from typing import Final

from .errors import CliError

_IDENTIFIER: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
IDENTIFIER_HINT: Final = (
    "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."
)


def check_identifier(ident: str) -> None:
    """Raise ``CliError`` for an id that QEMU's options do not take."""
    if not _IDENTIFIER.fullmatch(ident):
        raise CliError("Parameter 'id' expects an identifier", hint=IDENTIFIER_HINT)
