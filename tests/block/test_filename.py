"""Names of images."""

from __future__ import annotations

import pytest

from blkxact.block.filename import combine, nested, parse_json, protocol_of
from blkxact.errors import QmpError


@pytest.mark.parametrize(
    ("filename", "protocol"),
    [
        ("a.raw", ""),
        ("/dir/a:b", ""),
        ("./a:b", ""),
        ("nbd:unix:/x", "nbd"),
        ("nbd+unix:///x", "nbd+unix"),
        ("file:a", "file"),
        (":", ""),
    ],
)
def test_protocol_is_what_stands_before_a_colon_that_no_slash_precedes(filename, protocol):
    assert protocol_of(filename) == protocol


@pytest.mark.parametrize(
    ("base", "filename", "full"),
    [
        ("/dir/top", "base", "/dir/base"),
        ("/dir/top", "../base", "/dir/../base"),
        ("top", "base", "base"),
        ("dir/top", "base", "dir/base"),
        ("/dir/top", "/base", "/base"),
        ("/dir/top", "nbd:x:1", "nbd:x:1"),
        ("file:/dir/top", "base", "file:/dir/base"),
        ("file:top", "base", "file:base"),
    ],
)
def test_combine_takes_relative_names_from_the_images_directory(base, filename, full):
    assert combine(base, filename) == full


def test_json_name_gives_nested_options():
    assert parse_json(
        'json:{"driver": "raw", "file.driver": "file", "file": {"filename": "x"}}'
    ) == {
        "driver": "raw",
        "file": {"driver": "file", "filename": "x"},
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("json:{", "^Could not parse the JSON options: "),
        ("json:[1]", r"^Invalid JSON object given$"),
        ('json:{"a": 1, "a.b": 2}', "'a' is both a value and an object"),
    ],
)
def test_json_name_that_is_no_object_is_refused(name, message):
    with pytest.raises(QmpError, match=message):
        parse_json(name)


def test_nested_joins_dotted_names_of_any_depth():
    assert nested({"a.b.c": 1, "a.b.d": 2, "a": {"e.f": 3}}) == {
        "a": {"b": {"c": 1, "d": 2}, "e": {"f": 3}}
    }


def test_numbered_members_of_a_json_name_are_lists():
    rules = {"inject-error.0.event": "none", "inject-error": {"1": {"event": "read_aio"}}}
    assert nested(rules) == {"inject-error": [{"event": "none"}, {"event": "read_aio"}]}
    # A gap makes no list: the schema refuses the object.
    assert nested({"a.1.b": 1}) == {"a": {"1": {"b": 1}}}
