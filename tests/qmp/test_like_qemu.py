"""The same bytes to a session and to the real QEMU: the same answers."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from .inputs import AFTER, ALL, NESTED, lines, outcome, until_after
from .talk import CAPABILITIES, CAPABILITIES_OOB, Talk
from .test_json_stream import PIECES, random_input

pytestmark = pytest.mark.qemu

TIMEOUT_S = 60
"""How long to wait for a QEMU that does not answer; not reached when all is well."""


class RealQemu:
    """A QEMU without a machine; each ``say`` is a connection of its own."""

    def __init__(self, directory: Path) -> None:
        self._path = str(directory / "qmp")
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self._path)
        listening.listen(1)
        with listening:
            self._process = subprocess.Popen(
                [
                    *("qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none"),
                    *("-chardev", f"socket,id=c,fd={listening.fileno()},server=on,wait=off"),
                    *("-mon", "chardev=c,mode=control"),
                ],
                pass_fds=[listening.fileno()],
                stderr=subprocess.DEVNULL,
            )

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def say(self, data: bytes, negotiate: bytes | None = CAPABILITIES) -> list[dict[str, Any]]:
        """Return the replies to ``data``, which must end with what is answered with id "after"."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(self._path)
            stream = connection.makefile("rb")
            self.greeting = lines(stream.readline())
            if negotiate is not None:
                connection.sendall(negotiate)
                assert lines(stream.readline()) == [{"return": {}}]
            connection.sendall(data)
            replies = []
            while not replies or replies[-1].get("id") != "after":
                replies += lines(stream.readline())
            return replies


@pytest.fixture(scope="module")
def real() -> Iterator[RealQemu]:
    directory = Path(tempfile.mkdtemp(prefix="blkxact-"))
    qemu = RealQemu(directory)
    yield qemu
    qemu.close()
    shutil.rmtree(directory)


def test_greeting_is_of_the_same_form_and_version(real: RealQemu) -> None:
    real.say(b'{"execute": "query-name", "id": "after"}')
    greeting, ours = real.greeting, Talk().greeting
    assert greeting[0]["QMP"].pop("version")["qemu"]["major"] == 7
    assert ours[0]["QMP"].pop("version")["package"] == "toy"
    assert ours == greeting


@pytest.mark.parametrize("data", {**ALL, **NESTED}, ids=lambda data: repr(data[:40]))
def test_input_of_the_table_is_answered_as_qemu_does(real: RealQemu, data: bytes) -> None:
    expected = real.say(data + AFTER)
    assert [outcome(reply) for reply in until_after(expected)] == {**ALL, **NESTED}[data]
    assert Talk().say(data + AFTER) == expected


@pytest.mark.parametrize(
    "id_",
    [
        *(b"null", b"true", b"0", b"-1.5", b"18446744073709551615", b"18446744073709551616"),
        *(b'"x"', b"''", b'"\\u0000\\ud83d\\ude00"', b'"\xc3\xa9\x7f"', b"[]", b'{"id": [1, {}]}'),
        *(b"1e999", b"-1e999", b"[" * 400 + b"]" * 400),
    ],
    ids=lambda data: repr(data[:30]),
)
def test_id_of_any_kind_comes_back(real: RealQemu, id_: bytes) -> None:
    data = b'{"execute":"query-name","id":%s}{"execute":"nope","id":%s}' % (id_, id_) + AFTER
    assert Talk().say(data) == real.say(data)


NEGOTIATION = [
    b'{"execute": "query-name", "id": 1}',
    b'{"execute": "nope"}',
    b'{"exec-oob": "query-name"}',
    b'{"exec-oob": "qmp_capabilities"}',
    b'{"execute": "qmp_capabilities", "foo": 1}',
    b'{"execute": "qmp_capabilities", "arguments": []}',
    b'{"execute": "qmp_capabilities", "arguments": {"enable": "oob"}}',
    b'{"execute": "qmp_capabilities", "arguments": {"enable": {}}}',
    b'{"execute": "qmp_capabilities", "arguments": {"enable": null}}',
    b'{"execute": "qmp_capabilities", "arguments": {"enable": [null]}}',
    b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob", 1]}}',
    b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob", "x"]}}',
    b'{"execute": "qmp_capabilities", "arguments": {"a": 1}}',
    b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"], "a": 1}}',
    b"[]@\n",
]


@pytest.mark.parametrize("data", NEGOTIATION, ids=repr)
def test_input_before_negotiation_is_answered_as_qemu_does(real: RealQemu, data: bytes) -> None:
    data = data + b'{"execute": "query-name", "id": "after"}'
    expected = real.say(data, None)
    assert Talk(negotiate=None).say(data) == expected
    assert "Expecting capabilities negotiation" in expected[-1]["error"]["desc"]


@pytest.mark.parametrize(
    "data",
    [
        CAPABILITIES,
        CAPABILITIES + CAPABILITIES,
        CAPABILITIES_OOB,
        b'{"execute": "qmp_capabilities", "arguments": {"enable": []}, "id": [1]}',
        b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob", "oob"]}}',
        b'{"execute": "qmp_capabilities", "arguments": {}}',
    ],
    ids=repr,
)
def test_negotiation_governs_the_very_next_byte(real: RealQemu, data: bytes) -> None:
    data = data + b'{"execute": "query-name", "id": "after"}'
    expected = real.say(data, None)
    assert Talk(negotiate=None).say(data) == expected
    assert outcome(expected[-1]) == ""


OUT_OF_BAND = [
    b'{"exec-oob": "query-name", "id": 1}',
    b'{"exec-oob": "nope", "id": 1}',
    b'{"exec-oob": 1}',
    b'{"exec-oob": "query-yank", "arguments": 1}',
    b'{"exec-oob": "query-yank", "foo": 1}',
    b'{"exec-oob": "qmp_capabilities"}',
    b'{"execute": "query-name", "exec-oob": "query-name"}',
]


@pytest.mark.parametrize("negotiate", [CAPABILITIES, CAPABILITIES_OOB], ids=["in", "oob"])
@pytest.mark.parametrize("data", OUT_OF_BAND, ids=repr)
def test_out_of_band_request_is_answered_as_qemu_does(
    real: RealQemu, data: bytes, negotiate: bytes
) -> None:
    data = data + b'{"execute": "query-name", "id": "after"}'
    # Ours are in order, QEMU's from two threads.
    expected = sorted(real.say(data, negotiate), key=repr)
    assert sorted(Talk(negotiate=negotiate).say(data), key=repr) == expected


def blurred(reply: dict[str, Any]) -> dict[str, Any]:
    """Return a reply without what is QEMU's choice.

    Of several faults in one request QEMU tells the one that its hash table puts first.
    """
    if "error" in reply and reply["error"]["desc"].startswith("QMP input"):
        return {**reply, "error": "QMP input"}
    return reply


def test_random_input_is_answered_as_qemu_does(real: RealQemu, seeded: Random) -> None:
    data = b"".join(random_input(seeded) + b"\n\xff\n" for _ in range(400))
    data += AFTER
    ours = [blurred(reply) for reply in Talk().say(data)]
    assert ours == [blurred(reply) for reply in real.say(data)]


def test_random_changes_of_good_input_are_answered_as_qemu_does(
    real: RealQemu, seeded: Random
) -> None:
    good = b'{"execute": "query-name", "id": {"a": [1.5, "x\\n", true, -7], "b": \'y\'}}'
    inputs = []
    for _ in range(300):
        changed = bytearray(good)
        for _ in range(seeded.randrange(1, 4)):
            start = seeded.randrange(len(changed))
            changed[start : start + seeded.randrange(3)] = seeded.choice(PIECES)
        inputs.append(bytes(changed))
    data = b"\n\xff\n".join(inputs) + AFTER
    ours = [blurred(reply) for reply in Talk().say(data, seeded.randrange(1, 5000))]
    assert ours == [blurred(reply) for reply in real.say(data)]
