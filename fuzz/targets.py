"""The targets of the fuzzer: each takes any bytes, and raises only when we are wrong."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from . import chains, images, streams
from .recipe import build, random_recipe

_runner = asyncio.Runner()


def _run(coroutine: Coroutine[Any, Any, Any]) -> None:
    _runner.run(coroutine)


def _image(room: str, data: bytes) -> None:
    _run(images.exercise(build(data, room)[1]))


def _chain(data: bytes) -> None:
    _run(chains.exercise(data))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "qcow2_image": partial(_image, "all"),
    "qcow2_header": partial(_image, "header"),
    "qcow2_tables": partial(_image, "tables"),
    "qcow2_snapshots": partial(_image, "snapshots"),
    "qcow2_bitmaps": partial(_image, "bitmaps"),
    "qcow2_compressed": partial(_image, "compressed"),
    "qcow2_bytes": lambda data: _run(images.exercise(data)),
    "backing_chain": _chain,
    "qmp_json": streams.exercise_json,
    "nbd_handshake": streams.exercise_handshake,
    "nbd_requests": streams.exercise_requests,
}

_WORDS = {
    "qmp_json": (b"{", b"}", b"[", b"]", b'"', b"'", b":", b",", b"\\u", b"\\", b"1", b"-", b"0.5e",
                 b"true", b"null", b"\xff", b"\n", b" ", b'"a"', b"%", b"d800", b"\xe2\x82\xac"),
    "nbd_handshake": (b"IHAVEOPT", b"\0\0\0\1", b"\0\0\0\3", b"\0\0\0\7", b"\0\0\0\6", b"\0\0\0\0",
                      b"\0\0\0\x0a", b"\0\0\0\x09", b"\0\0\0\x08", b"\0\0\0\4disk", b"base:",
                      b"\0\1", b"\0\0\0\x10", b"qemu:", b"\0\1\0\0"),
    "nbd_requests": (b"\x25\x60\x95\x13", b"\0\0\0\0", b"\0\1", b"\0\0\0\1", b"\0\0", b"\xff" * 4,
                     b"\0" * 12, b"\0\0\2\0", b"x" * 512),
}  # fmt: skip


def random_input(target: str, source: random.Random) -> bytes:
    """Return an input that gets somewhere."""
    if target == "qcow2_bytes":
        return build(random_recipe(source))[1]
    if target.startswith("qcow2"):
        return random_recipe(source)
    words = _WORDS.get(target)
    if words is None:
        images_ = (bytes([source.randrange(256)]) for _ in chains.IMAGES)
        tails = (b"", b"", b"", b"}", b"x", source.randbytes(3))
        return b"\xff".join(image + source.choice(tails) for image in images_)
    start = b"\0\0\0\1" if target == "nbd_handshake" else b""
    body = b"".join(source.choice(words) for _ in range(source.randrange(60)))
    return source.randbytes(1) + start + body
