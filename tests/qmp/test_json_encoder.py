"""All JSON that leaves the program comes from one encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import blkxact
from blkxact.qmp.json_text import encode_text

PACKAGE = Path(blkxact.__file__).parent


def test_nothing_but_the_encoder_writes_json():
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "json.dump" in path.read_text()
    }
    assert found == {"qmp/json_text.py"}


@pytest.mark.parametrize("indent", [None, 2])
def test_text_of_bytes_that_are_not_utf8_is_valid_json(indent):
    value = {"\udcffkey": ["a\udce9b", "\U0001f600"]}
    text = encode_text(value, indent)
    assert json.loads(text) == {"\ufffdkey": ["a\ufffdb", "\U0001f600"]}
    assert ("\n" in text) == (indent is not None)


def test_text_that_cannot_be_indented_is_on_one_line():
    assert encode_text([float("inf")], 4) == "[1e999]"
    deep = []
    for _ in range(5000):
        deep = [deep]
    assert encode_text(deep, 4) == "[" * 5001 + "]" * 5001
