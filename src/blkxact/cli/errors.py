"""The error that the command line itself finds."""

from __future__ import annotations


class CliError(Exception):
    """Something on the command line cannot be done; the text is one clear line.

    ``earlier`` is a line that is printed before it, ``hint`` one that is printed after it.
    ``place`` is where in a file the error is (``FILE:LINE``), printed next to the program's name.
    An error that ``is_located`` is not put after the words that it comes from.
    """

    def __init__(
        self,
        text: str,
        *,
        status: int = 1,
        earlier: str | None = None,
        hint: str | None = None,
        place: str | None = None,
        is_located: bool = False,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.earlier = earlier
        self.hint = hint
        self.place = place
        self.is_located = is_located or place is not None

    def located(self, where: str) -> CliError:
        """Return the same error with the words that it comes from before its text."""
        earlier = None if self.earlier is None else f"{where}: {self.earlier}"
        return CliError(
            f"{where}: {self}",
            status=self.status,
            earlier=earlier,
            hint=self.hint,
            place=self.place,
        )
