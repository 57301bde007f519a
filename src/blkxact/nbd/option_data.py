"""The data of an option, or of a reply to one, taken apart.

Source: the NBD protocol specification, "Option haggling".
"""

from __future__ import annotations

from .protocol import MAX_STRING, U16, option_name, unpack_text


class OptionDataError(Exception):
    """The data does not hold what it should."""


class OptionData:
    """Reads the parts one after the other; raises ``OptionDataError`` for what does not fit."""

    def __init__(self, data: bytes, option: int) -> None:
        self._data = data
        self._at = 0
        self._name = option_name(option)

    def _take(self, length: int) -> bytes:
        if length > len(self._data) - self._at:
            raise OptionDataError(f"Inconsistent lengths in option {self._name}")
        start, self._at = self._at, self._at + length
        return self._data[start : self._at]

    def u32(self) -> int:
        """Return a number."""
        return int.from_bytes(self._take(4), "big")

    def _text(self, length: int) -> str:
        data = self._take(length)
        if b"\0" in data:
            raise OptionDataError(f"Unexpected embedded NUL in option {self._name}")
        return unpack_text(data)

    def name(self) -> str:
        """Return a name, which has its length before it."""
        length = self.u32()
        if length > MAX_STRING:
            raise OptionDataError(f"Invalid name length: {length}")
        return self._text(length)

    def u16_list(self) -> list[int]:
        """Return numbers, preceded by their count in two bytes."""
        count = int.from_bytes(self._take(2), "big")
        data = self._take(2 * count)
        return [number for (number,) in U16.iter_unpack(data)]

    def queries(self) -> list[str]:
        """Return queries for metadata contexts; one that is too long can match nothing."""
        queries = []
        for _ in range(self.u32()):
            length = self.u32()
            if length > MAX_STRING:
                self._take(length)
            else:
                queries.append(self._text(length))
        return queries

    def end(self) -> None:
        """Refuse data after the end."""
        if self._at < len(self._data):
            raise OptionDataError(f"option '{self._name}' has unexpected length")
