"""Files that nobody keeps."""

from __future__ import annotations

import os


def create_temporary(folder: str) -> str:
    """Create an empty file ``vl.XXXXXX``, which nobody else can have made; return its path."""
    import tempfile  # noqa: PLC0415 - few ask for it

    descriptor, path = tempfile.mkstemp(prefix="vl.", dir=folder)
    os.close(descriptor)
    return path
