"""What must hold for the bytes of clients: QMP and NBD.

However the bytes are cut, the same is read from them; what cannot be is refused with the protocol's
own error; nothing else is raised, and what is kept is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from blkxact.errors import QmpError
from blkxact.nbd.protocol import Mode, ProtocolError, TransmissionFlag
from blkxact.nbd.request_stream import RequestStream
from blkxact.nbd.server_handshake import ServerHandshake, Step
from blkxact.qmp.json_stream import NEED_DATA, JsonStream
from blkxact.qmp.json_text import encode


@dataclass
class Offer:
    """An export."""

    name: str
    size: int = 1 << 20
    description: str | None = "an export"
    flags: TransmissionFlag = TransmissionFlag.HAS_FLAGS
    minimum_block: int = 1
    contexts: Mapping[int, str] = field(
        default_factory=lambda: {0: "base:allocation", 1: "qemu:dirty-bitmap:b"}
    )


class Catalogue:
    """Two exports."""

    _offers = (Offer(""), Offer("disk"))

    def offers(self) -> tuple[Offer, ...]:
        """Return all."""
        return self._offers

    def find_offer(self, name: str) -> Offer | None:
        """Return one."""
        return next((offer for offer in self._offers if offer.name == name), None)


def cut(data: bytes) -> tuple[bytes, int]:
    """Return a stream, and how long its pieces are: the first byte tells."""
    return data[1:], 1 + (data[0] if data else 0) % 64


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """Yield the stream in pieces; one of nothing if it is empty."""
    return (data[at : at + size] for at in range(0, max(len(data), 1), size))


def exercise_json(data: bytes) -> None:
    """Read values from a QMP stream, whole and in pieces."""
    stream, size = cut(data)
    whole = _values([stream])
    assert whole == _values(list(pieces(stream, size))), "it depends on how the bytes are cut"


def _values(parts: list[bytes]) -> list[Any]:
    stream = JsonStream()
    found: list[Any] = []
    for part in parts:
        stream.feed(part)
        while True:
            try:
                value = stream.next_value()
            except QmpError as error:
                found.append(("error", error.desc))
                continue
            if value is NEED_DATA:
                break
            found.append(encode(value))
    return found


def exercise_handshake(data: bytes) -> None:
    """Answer an NBD client's handshake, and read its requests."""
    stream, size = cut(data)
    whole = _talk([stream])
    assert whole == _talk(list(pieces(stream, size))), "it depends on how the bytes are cut"


def _talk(parts: list[bytes]) -> tuple[bytes, str]:
    handshake = ServerHandshake(Catalogue(), extended=True)
    said, end = bytearray(), "starved"
    for part in parts:
        if end != "starved":
            break
        handshake.receive(part)
        while True:
            try:
                step = handshake.step()
            except ProtocolError as error:
                step, end = None, f"error: {error}"
            said += handshake.output
            handshake.output.clear()
            if step is None or step is Step.STARVED:
                break
            if step is not Step.ANSWERED:
                end = step.name
                break
    return bytes(said), end


def exercise_requests(data: bytes) -> None:
    """Read the requests of an NBD client."""
    stream, size = cut(data)
    for mode in (Mode.STRUCTURED, Mode.EXTENDED):
        whole = _requests([stream], mode)
        cut_up = _requests(list(pieces(stream, size)), mode)
        assert whole == cut_up, "it depends on how the bytes are cut"


def _requests(parts: list[bytes], mode: Mode) -> list[Any]:
    stream = RequestStream(mode)
    found: list[Any] = []
    try:
        for part in parts:
            at = 0
            while at < len(part):
                room = stream.get_buffer()
                length = min(len(room), len(part) - at)
                room[:length] = part[at : at + length]
                stream.received(length)
                at += length
                while (one := stream.next_request()) is not None:
                    payload = None if one.payload is None else bytes(one.payload)
                    found.append((one._replace(payload=None), payload))
                    if one.payload is not None:
                        stream.give_back(one.payload)
    except ProtocolError as error:
        found.append(str(error))
    return found
