"""A server's reply to an option, as the client looks at it; the words are QEMU's.

Source: the NBD protocol specification, "Option reply types".
"""

from __future__ import annotations

from typing import NamedTuple

from .protocol import MAX_STRING, U32, Option, OptionReply, option_name, reply_name, unpack_text


class HandshakeError(Exception):
    """The server cannot be used. ``hint`` is what else a person may want to know."""

    def __init__(self, text: str, hint: str | None = None) -> None:
        super().__init__(text)
        self.hint = hint


class Reply(NamedTuple):
    """One reply. The methods raise ``HandshakeError`` for what does not fit."""

    option: Option
    kind: int
    """An ``OptionReply``, or what we do not know."""
    data: bytes

    def expect(self, kind: OptionReply) -> None:
        """Refuse a reply of another kind."""
        if self.kind != kind:
            raise HandshakeError(
                f"Unexpected reply type {self.kind:d} ({reply_name(self.kind)}), expected "
                f"{kind:d} ({reply_name(kind)})"
            )

    def is_end(self, complaint: str) -> bool:
        """Return whether this is the last reply; ``complaint`` is for one that has data."""
        if self.kind != OptionReply.ACK:
            return False
        if self.data:
            raise HandshakeError(complaint)
        return True

    def listed_name(self) -> bytes:
        """Return the name of an export in a list, as it came."""
        data = self.data
        if len(data) < U32.size:
            raise HandshakeError(f"incorrect option length {len(data)}")
        (length,) = U32.unpack_from(data)
        if length > min(len(data) - U32.size, MAX_STRING):
            raise HandshakeError("incorrect name length in server's list response")
        if len(data) - U32.size - length > MAX_STRING:
            raise HandshakeError("incorrect description length in server's list response")
        return data[U32.size : U32.size + length]

    def refusal(self) -> HandshakeError:
        """Return the error for a refusal, with the server's own words as a hint."""
        which = f"option {self.option:d} ({option_name(self.option)})"
        texts: dict[int, str] = {
            OptionReply.ERR_POLICY: f"Denied by server for {which}",
            OptionReply.ERR_INVALID: f"Invalid parameters for {which}",
            OptionReply.ERR_PLATFORM: f"Server lacks support for {which}",
            OptionReply.ERR_TLS_REQD: f"TLS negotiation required before {which}",
            OptionReply.ERR_UNKNOWN: "Requested export not available",
            OptionReply.ERR_SHUTDOWN: f"Server shutting down before {which}",
            OptionReply.ERR_BLOCK_SIZE_REQD: f"Server requires INFO_BLOCK_SIZE for {which}",
        }
        hints = []
        if self.kind == OptionReply.ERR_TLS_REQD:
            hints.append("Did you forget a valid tls-creds?")
        if self.data:
            hints.append(f"server reported: {unpack_text(self.data)}")
        text = texts.get(self.kind, f"Unknown error code when asking for {which}")
        return HandshakeError(text, "\n".join(hints) or None)
