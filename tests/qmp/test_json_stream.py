"""Values out of bytes: whatever way the bytes come, and whatever they are."""

from __future__ import annotations

import contextlib
import json
import math
from random import Random
from typing import Any

import pytest

from blkxact.errors import QmpError
from blkxact.qmp import json_scanner, json_stream
from blkxact.qmp.json_stream import NEED_DATA, JsonStream
from blkxact.qmp.json_text import encode

from .inputs import ALL, NESTED


def read(data: bytes, cuts: list[int] | int | None = None) -> list[Any]:
    """Return the values in the data, cut at the given positions; an error is its text in a set."""
    if cuts is None:
        cuts = []
    elif isinstance(cuts, int):
        cuts = list(range(cuts, len(data), cuts))
    stream = JsonStream()
    found: list[Any] = []
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        stream.feed(data[start:end])
        while not stream.exhausted:
            try:
                value = stream.next_value()
            except QmpError as error:
                value = {error.desc}
            if value is not NEED_DATA:
                found.append(value)
    return found


VALUES = {
    b"{}": {},
    b'{"a": [1, -2, 3.5, true, false, null, "x"], "b": {"c": []}}': {
        "a": [1, -2, 3.5, True, False, None, "x"],
        "b": {"c": []},
    },
    b"{'a': 'it\\'s \"x\"'}": {"a": 'it\'s "x"'},
    b'{"a": "it\'s \\"x\\" \\/\\b\\f\\n\\r\\t\\\\"}': {"a": 'it\'s "x" /\b\f\n\r\t\\'},
    b'{"a": "\\u00e9\\ud83d\\ude00\\u0000"}': {"a": "\u00e9\U0001f600\0"},
    b'{"a": "\xc3\xa9\xf0\x9f\x98\x80\xc0\x80"}': {"a": "\u00e9\U0001f600\0"},
    b'{"a": "%d %% \x7f"}': {"a": "%d %% \x7f"},
    b'{"a": 9223372036854775807}': {"a": 2**63 - 1},
    b'{"a": 18446744073709551615}': {"a": 2**64 - 1},
    b'{"a": 18446744073709551616}': {"a": 2.0**64},
    b'{"a": -9223372036854775808}': {"a": -(2**63)},
    b'{"a": -9223372036854775809}': {"a": -(2.0**63)},
    b'{"a": -0, "b": 0.5, "c": 1e2, "d": 1E-2}': {"a": 0, "b": 0.5, "c": 100.0, "d": 0.01},
    b'{"a": 1e999}': {"a": math.inf},
    b'{"a":' + b"9" * 5000 + b"}": {"a": math.inf},
    b'{"":0,"A":1,"a":2}': {"": 0, "A": 1, "a": 2},
    b"[1,[2,[]]]": [1, [2, []]],
    b'"\\u0041"': "A",
}


@pytest.mark.parametrize("data", VALUES, ids=lambda data: repr(data[:40]))
def test_value_whole_or_cut_anywhere_is_read(data: bytes) -> None:
    assert read(data) == [VALUES[data]]
    for cut in range(1, len(data), 1 if len(data) < 200 else 97):
        assert read(data, [cut]) == [VALUES[data]]
    assert read(data, 1) == [VALUES[data]]


def test_integer_and_float_stay_what_they_are() -> None:
    (value,) = read(b'{"a": 1, "b": 1.0, "c": 10000000000000000000000}')
    assert [type(member) for member in value.values()] == [int, float, float]


def test_integer_and_float_in_the_slow_way_stay_what_they_are() -> None:
    (value,) = read(b"{'a': 1, 'b': 1.0, 'c': 10000000000000000000000}")
    assert [type(member) for member in value.values()] == [int, float, float]


def test_many_messages_in_one_piece_without_separators_are_all_read() -> None:
    data = b'{"n": 0}{"n": 1}\n{"n": 2} \r\n\t {"n": 3}[4]"5"{\'n\': 6}7 8 {"n": 9}'
    expected = [{"n": 0}, {"n": 1}, {"n": 2}, {"n": 3}, [4], "5", {"n": 6}, 7, 8, {"n": 9}]
    assert read(data) == expected
    for cut in range(1, len(data)):
        assert read(data, [cut]) == expected
    for step in (1, 2, 3, 5):
        assert read(data, step) == expected


def test_good_messages_after_each_kind_of_bad_one_are_read() -> None:
    good = b'{"good": true}'
    for bad in ALL:
        found = read(bad + b"\n\xff\n" + good + good)
        assert found[-2:] == [{"good": True}] * 2, bad
        assert read(good + good + bad + b"\n\xff\n" + good) == [{"good": True}] * 2 + found[:-1]


def shown(values: list[Any]) -> list[Any]:
    """Return something comparable for values that nest deeper than Python compares."""
    return [value if isinstance(value, set) else encode(value) for value in values]


@pytest.mark.parametrize("data", {**ALL, **NESTED}, ids=lambda data: repr(data[:40]))
def test_bad_input_cut_anywhere_gives_the_same(data: bytes) -> None:
    data += b'\n\xff\n{"a": 1}'
    whole = shown(read(data))
    cuts = range(1, len(data)) if len(data) < 200 else range(1, len(data), 397)
    for cut in cuts:
        assert shown(read(data, [cut])) == whole
    for step in (1, 7):
        assert shown(read(data, step)) == whole


def test_error_is_told_before_the_message_ends() -> None:
    stream = JsonStream()
    stream.feed(b'{"execute": @')
    with pytest.raises(QmpError, match="stray '@'"):
        stream.next_value()
    assert stream.next_value() is NEED_DATA


def test_number_at_the_end_of_input_is_waited_for() -> None:
    assert read(b"12") == []
    assert read(b"12 ") == [12]
    assert read(b"123", 1) == []
    assert read(b"12,") == [12, {"JSON parse error, expecting value"}]


# Limits


def test_nesting_at_the_limit_is_read_and_beyond_is_refused() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":' * depth + b"0" + b"}" * depth

    for cut in (None, 700):
        (inner,) = read(nested(1024), cut)
        for _ in range(1024):
            inner = inner["a"]
        assert inner == 0
    assert read(nested(1025))[0] == {"JSON nesting depth limit exceeded"}


def test_many_brackets_side_by_side_are_no_nesting() -> None:
    value = [[{}] for _ in range(5000)]
    assert read(json.dumps({"a": value}).encode()) == [{"a": value}]


def test_deep_nesting_hidden_by_brackets_in_strings_is_refused() -> None:
    depth = json_scanner.MAX_NESTING + 1
    data = b'{"}":' * depth + b"0" + b',"{":1}' * depth
    assert read(data)[0] == {"JSON nesting depth limit exceeded"}


@pytest.mark.parametrize("step", [1, 50, 64, 1000])
def test_message_beyond_the_size_limit_is_refused_and_the_next_read(
    monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(json_scanner, "MAX_MESSAGE_SIZE", 100)
    fits = b'["' + b"x" * 96 + b'"]'
    assert len(fits) == 100
    assert read(fits, step) == ["x" * 96] or read(fits, step) == [["x" * 96]]
    found = read(b'["' + b"x" * 500 + b'"]\n\xff{"a": 1}', step)
    assert {"JSON token size limit exceeded"} in found
    assert found[-1] == {"a": 1}


@pytest.mark.parametrize("piece", [b"[1,", b'"x', b'{"a":"', b"9", b"a", b"[  "])
def test_endless_input_keeps_a_bounded_buffer(
    monkeypatch: pytest.MonkeyPatch, piece: bytes
) -> None:
    monkeypatch.setattr(json_scanner, "MAX_MESSAGE_SIZE", 1000)
    stream = JsonStream()
    for _ in range(1000):
        stream.feed(piece * 10)
        while not stream.exhausted:
            with contextlib.suppress(QmpError):
                stream.next_value()
        assert stream.held <= 1000 + 10 * len(piece)


def test_whitespace_between_messages_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_scanner, "MAX_MESSAGE_SIZE", 100)
    assert read(b" \n" * 10_000 + b'{"a": 1}' + b"\r\n" * 1000, 64) == [{"a": 1}]


def test_message_beyond_the_token_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_scanner, "MAX_TOKEN_COUNT", 100)
    monkeypatch.setattr(json_stream, "PLAIN_TOKENS", 100)
    fits = b'{"a": [' + b"1," * 46 + b"1]}"
    assert read(fits) == [{"a": [1] * 47}]
    above = b'{"a": [' + b"1," * 47 + b"1]}"
    for step in (None, 10):
        assert read(above + b'{"b": 1}', step) == [
            {"JSON token count limit exceeded"},
            {"b": 1},
        ]


# Two ways, one result


PIECES = [
    *(bytes([byte]) for byte in b"{}[]:,{}[]:, \t\n\r\x00\x1f\x7f\xfe\xff@%\\'\""),
    *(b'"a"', b'"b"', b"'a'", b'"execute"', b'"query-name"', b'"id"', b'"\\u00e9"', b'"\\ud800"'),
    *(b"0", b"1", b"-", b"-0", b".5", b"e", b"E+", b"1e3", b"12345678901234567890123"),
    *(b"true", b"false", b"null", b"nan", b"x", b"N", b"\xc3\xa9", b"\xc3", b"\xed\xa0\x80"),
    *(b'{"a":1}', b'{"a":[{}]}', b'{"execute":"query-name"}', b'{"a":1,"a":2}', b'{"a":0e1}'),
]


def random_input(source: Random) -> bytes:
    return b"".join(source.choices(PIECES, k=source.randrange(1, 25)))


def test_random_input_by_the_quick_and_the_thorough_way_gives_the_same(
    seeded: Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [random_input(seeded) for _ in range(1500)]
    quick = [read(data) for data in inputs]
    cut = [
        read(data, sorted(seeded.sample(range(len(data)), min(len(data), 3)))) for data in inputs
    ]
    monkeypatch.setattr(json_stream, "_plain_text", lambda data: None)
    for data, one, two in zip(inputs, quick, cut, strict=True):
        thorough = read(data)
        # repr, as 1 and 1.0 are equal
        assert repr(one) == repr(thorough), data
        assert repr(two) == repr(thorough), data


def random_value(source: Random, depth: int = 0) -> Any:
    kind = source.randrange(9 if depth < 4 else 7)
    if kind < 7:
        text = "".join(source.choices("aZ\"'\\/\n\t\x00\x7f\u00e9\u20ac\U0001f600{}[]:,", k=5))
        number = source.randrange(-(2**63), 2**64)
        return (None, True, False, number, number % 1000, source.random() * 1e10, text)[kind]
    if kind == 7:
        return [random_value(source, depth + 1) for _ in range(source.randrange(5))]
    return {f"k{i}": random_value(source, depth + 1) for i in range(source.randrange(5))}


def test_random_values_written_by_another_encoder_are_read_back(seeded: Random) -> None:
    for ascii_only in (True, False):
        values = [random_value(seeded) for _ in range(300)]
        data = "\n".join(json.dumps(v, ensure_ascii=ascii_only) for v in values).encode() + b"\n"
        for step in (None, 1000, seeded.randrange(1, 40)):
            assert read(data, step) == values


@pytest.mark.parametrize("unit", [b"1,", b'"x",', b"[],", b"'y',", b"true ,", b"0.5,", b"{},"])
def test_what_follows_the_token_limit_is_another_message(
    monkeypatch: pytest.MonkeyPatch, unit: bytes
) -> None:
    monkeypatch.setattr(json_scanner, "MAX_TOKEN_COUNT", 100)
    monkeypatch.setattr(json_stream, "PLAIN_TOKENS", 100)
    # QEMU counts the tokens as they come, forgets the message with the one too many, and goes on.
    tokens = [b"[", *[part for _ in range(80) for part in (unit[:-1], b",")]]
    if unit[0] in b"[{":
        tokens = [b"[", *[bytes([byte]) for _ in range(80) for byte in unit]]
    rest = b" ".join(tokens[101:]) + b" \n\xff\n"
    expected = [{"JSON token count limit exceeded"}, *read(rest)]
    data = b"".join(tokens) + b" \n\xff\n"
    assert read(data) == expected
    for step in (1, 7, 64):
        assert read(data, step) == expected


# Turns


LONG = {
    "numbers": b"[" + b"1," * 20_000 + b'"\\u0041"]',
    "brackets": b"[" + b"[]," * 10_000 + b'"\\u0041"]',
    "odd tokens": b"[" + b"'a'," * 20_000 + b"1]",
    "escapes": b'"' + b"\\n" * 20_000 + b'\\u0041"',
    "escapes of quotes": b"'" + b"\\'" * 20_000 + b"'",
    "long text": b'"' + b"\xe2\x82\xac" * 1_000_000 + b'"',
    "many messages": b"{'a': [1, 1, 1, 1]}" * 2000,
}


@pytest.mark.parametrize("name", LONG)
def test_long_work_is_done_in_turns(name: str) -> None:
    data = LONG[name]
    stream = JsonStream()
    turns, values = 0, []
    for start in range(0, len(data), 65536):
        stream.feed(data[start : start + 65536])
        while not stream.exhausted:
            value = stream.try_next()
            if value is json_stream.NEED_TURN:
                turns += 1
            elif value is not NEED_DATA:
                values.append(value)
    tokens = 1 << 13
    assert turns >= tokens // json_scanner.WORK_PER_STEP
    assert values == read(data)


def test_input_that_comes_within_a_turn_is_read_after_it() -> None:
    stream = JsonStream()
    numbers = b"[" + b"1," * 5000 + b'"\\u0041"]'
    stream.feed(numbers[:9000])
    assert stream.try_next() is NEED_DATA
    stream.feed(numbers[9000:])
    assert stream.try_next() is json_stream.NEED_TURN
    stream.feed(b'{"a": 1}')
    assert stream.next_value() == [1] * 5000 + ["A"]
    assert stream.next_value() == {"a": 1}


@pytest.mark.parametrize("character", ["\u00e9", "\u20ac", "\U0001f600"])
@pytest.mark.parametrize("shift", range(4))
def test_text_longer_than_a_piece_is_cut_between_characters(character: str, shift: int) -> None:
    text = "x" * shift + character * 40_000
    assert read(b"'" + text.encode() + b"'\n") == [text]


def test_long_text_that_is_no_utf8_is_refused() -> None:
    assert read(b"'" + b"\x80" * 100_000 + b"'\n") == [
        {"JSON parse error, invalid UTF-8 sequence in string"}
    ]
