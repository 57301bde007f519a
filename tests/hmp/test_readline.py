"""The human monitor as a terminal shows it: what is typed, and what QEMU sends for it."""

from __future__ import annotations

import pytest

from blkxact.hmp.readline import MAX_LINE, ReadLine


def typed(terminal, keys):
    """Return the lines that ``keys`` end, and what the terminal is sent for them."""
    lines = [line for line in map(terminal.feed, keys) if line is not None]
    return lines, terminal.take_output()


@pytest.fixture
def terminal():
    made = ReadLine()
    assert made.take_output() == b"(qemu) "
    return made


@pytest.mark.parametrize(
    ("keys", "line", "shown"),
    [
        (b"ab\n", b"ab", b"a\x1b[K\x1b[Dab\x1b[K\r\n"),
        (b"\r", b"", b"\r\n"),
        (b"ab\x7fc\n", b"ac", b"a\x1b[K\x1b[Dab\x1b[K\x1b[D\x1b[Da\x1b[K\x1b[Dac\x1b[K\r\n"),
        (b"a\x03\n", b"a", b"a\x1b[K\r\n"),
        (b"b\x1b[Da\n", b"ab", b"b\x1b[K\x1b[Dab\x1b[K\x1b[D\r\n"),
        (b"b\x01a\x05c\n", b"abc", None),
        (b"ab\x1b[1~\x1b[3~\n", b"b", None),
        (b"info  name\x17x\n", b"info  x", None),
        (b"ab\x1b[C\x1b[D\x1b[D\x1b[D\x04\n", b"b", None),
        (b"a\x1bxb\n", b"ab", None),
    ],
)
def test_keys_edit_the_line(terminal, keys, line, shown):
    lines, output = typed(terminal, keys)
    assert lines == [line]
    if shown is not None:
        assert output == shown


def test_arrows_recall_earlier_lines(terminal):
    typed(terminal, b"one\ntwo\none\n")
    assert typed(terminal, b"\x1b[A\n")[0] == [b"one"]
    assert typed(terminal, b"\x1b[A\x1b[A\n")[0] == [b"two"]
    assert typed(terminal, b"\x1b[A\x1b[A\x1b[A\x1b[A\x1b[B\x1b[B\x1b[B!\n")[0] == [b"!"]


def test_line_has_a_limit(terminal):
    lines, _ = typed(terminal, b"x" * (MAX_LINE + 10) + b"\n")
    assert lines == [b"x" * MAX_LINE]
