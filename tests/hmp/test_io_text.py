"""Numbers, figures and options of qemu-io; the expected texts are those of QEMU 7.2."""

from __future__ import annotations

import pytest

from blkxact.hmp.io_text import (
    Done,
    IoRefusal,
    IoUsage,
    Options,
    c_integer,
    dump,
    mismatch,
    parse_number,
    parse_pattern,
    report,
    size_text,
    time_text,
)

NOT_A_NUMBER = "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- "


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("512", 512),
        ("+512", 512),
        ("64k", 65536),
        ("64K", 65536),
        ("1b", 1),
        ("1.5k", 1536),
        ("1.k", 1024),
        ("0.1k", 102),
        ("0x200", 512),
        ("0x10k", 16384),
        ("2G", 2 << 30),
        ("1t", 1 << 40),
        ("7e", 7 << 60),
        ("9223372036854775807", (1 << 63) - 1),
    ],
)
def test_parse_number_units_are_powers_of_1024(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize("text", ["", "foo", "1.5", "1x", "-1", "0x", "1kk", "1e3", "0x1.8k"])
def test_parse_number_what_is_none_is_refused(text):
    with pytest.raises(IoRefusal) as caught:
        parse_number(text)
    assert str(caught.value) == f"{NOT_A_NUMBER}{text}\n"


@pytest.mark.parametrize("text", ["8e", "0x10000000000000000", "9223372036854775808"])
def test_parse_number_too_large_is_refused(text):
    with pytest.raises(IoRefusal) as caught:
        parse_number(text)
    assert str(caught.value) == f"Parsing error: argument too large -- {text}\n"


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("255", 255), ("0xff", 255), ("010", 8)])
def test_parse_pattern_takes_c_notation(text, value):
    assert parse_pattern(text) == value


@pytest.mark.parametrize("text", ["256", "-1", "0x100", "x", "1 2", "08"])
def test_parse_pattern_other_than_a_byte_is_refused(text):
    with pytest.raises(IoRefusal, match="is not a valid pattern byte"):
        parse_pattern(text)


def test_c_integer_signs_and_bases():
    assert [c_integer(t) for t in ("12", "-0x1F", "017", "x")] == [12, -31, 15, None]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 bytes"),
        (20, "20 bytes"),
        (512.25, "512.250000 bytes"),
        (1024, "1 KiB"),
        (1536, "1.500 KiB"),
        (4128768, "3.938 MiB"),
        (1 << 30, "1 GiB"),
        (3 << 40, "3 TiB"),
        (5 << 50, "5 PiB"),
        (1 << 60, "1 EiB"),
    ],
)
def test_size_text_has_three_decimals_or_none(value, text):
    assert size_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "long", "text"),
    [
        (0.254, False, "00.25 sec"),
        (62.5, False, "0:01:02.50"),
        (0.001, True, "0:00:00.00"),
        (3723.5, True, "1:02:03.50"),
    ],
)
def test_time_text_short_and_long(seconds, long, text):
    assert time_text(seconds, long=long) == text


def test_report_for_people_and_for_machines():
    done = Done("wrote", 4096, 65536, 0.25)
    assert report(done, machine=False) == (
        "wrote 65536/65536 bytes at offset 4096\n"
        "64 KiB, 1 ops; 00.25 sec (256 KiB/sec and 4.0000 ops/sec)\n"
    )
    assert report(done, machine=True) == "65536,1,0:00:00.25,262144.000,4.000\n"


def test_report_of_no_time_divides_by_something():
    assert "ops/sec" in report(Done("read", 0, 512, 0.0), machine=False)


def test_dump_lines_of_16_bytes():
    assert dump(b"AZaz09 \x80" * 2 + b"\x05\x05\x05\x05", 0x10) == (
        "00000010:  41 5a 61 7a 30 39 20 80 41 5a 61 7a 30 39 20 80  AZaz09..AZaz09..\n"
        "00000020:  05 05 05 05  ....\n"
    )


def test_mismatch_says_range_or_nothing():
    assert mismatch(b"\5\5\5", 512, 5) == ""
    assert mismatch(b"\5\6\5", 512, 5) == "Pattern verification failed at offset 512, 3 bytes\n"


def test_options_come_in_any_order_and_glued():
    options = Options("read", ["0", "-qP5", "-s", "1k", "64k", "-v"], "bCl:pP:qs:v")
    assert options.flags == {"q", "v"}
    assert options.values == {"P": "5", "s": "1k"}
    assert options.operands == ["0", "64k"]
    assert options.number("s") == 1024
    assert options.number("l", 7) == 7
    assert options.pattern(1) == 5


def test_options_end_at_two_dashes():
    assert Options("read", ["--", "-1", "2"], "q").operands == ["-1", "2"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-1"], "read: invalid option -- '1'\n"),
        (["-q:"], "read: invalid option -- ':'\n"),
        (["-P"], "read: option requires an argument -- 'P'\n"),
    ],
)
def test_options_unknown_or_incomplete_show_usage(words, text):
    with pytest.raises(IoUsage) as caught:
        Options("read", words, "P:q")
    assert str(caught.value) == text
