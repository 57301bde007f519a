"""Sizes, read and written as qemu-img does."""

from __future__ import annotations

import pytest

from blkxact.cli.errors import CliError
from blkxact.cli.sizes import parse_size
from blkxact.qapi.sizes import human_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("65536", 65536),
        ("64k", 65536),
        ("64K", 65536),
        ("1M", 1 << 20),
        ("1.5G", 3 << 29),
        (".5k", 512),
        ("2.k", 2048),
        ("1.7k", 1741),
        ("0x10000", 65536),
        ("512b", 512),
        ("7E", 7 << 60),
    ],
)
def test_parse_size_with_suffix_gives_bytes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "1.5", "1.5b", "-1", "8E", "1KB", "0x1k", "1 2", "1e3"])
def test_parse_size_without_sense_is_refused(text):
    with pytest.raises(CliError, match="Invalid size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (1024, "1 KiB"),
        (200704, "196 KiB"),
        (1022976, "999 KiB"),
        (1023488, "1e+03 KiB"),
        (1024000, "0.977 MiB"),
        (3 << 29, "1.5 GiB"),
        (1 << 60, "1 EiB"),
    ],
)
def test_human_size_has_three_digits_as_qemu_img(size, text):
    assert human_size(size) == text
