"""The error that the command line itself finds."""

from __future__ import annotations


class CliError(Exception):
    """Something on the command line cannot be done; the text is one clear line."""

    def __init__(self, text: str, *, status: int = 1) -> None:
        super().__init__(text)
        self.status = status
