"""KEY=VALUE words of ``blkxact qmp``, and the addresses of servers."""

from __future__ import annotations

import pytest

from blkxact.cli.arguments import MAX_NESTING, Arguments
from blkxact.cli.client import parse_address
from blkxact.cli.errors import CliError


def test_arguments_take_json_as_json_and_the_rest_as_text():
    words = ["a=1", "b=true", "c=disk0", 'd="0"', "e=", "f=null", 'g={"x": [1]}', "h=a=b"]
    assert Arguments(words).value() == {
        "a": 1,
        "b": True,
        "c": "disk0",
        "d": "0",
        "e": "",
        "f": None,
        "g": {"x": [1]},
        "h": "a=b",
    }


def test_arguments_with_dots_are_nested():
    words = ["file.driver=file", "file.filename=a", "bitmaps.1=y", "bitmaps.0.node=n"]
    assert Arguments(words).value() == {
        "file": {"driver": "file", "filename": "a"},
        "bitmaps": [{"node": "n"}, "y"],
    }


def test_arguments_word_in_braces_gives_all_its_members():
    assert Arguments(['{"actions": []}', "x=1"]).value() == {"actions": [], "x": 1}


@pytest.mark.parametrize(
    "words",
    [
        ["a"],
        ["=1"],
        ["a=1", "a=2"],
        ["a=1", "a.b=2"],
        ["a.0=1", "a.2=1"],
        ["{"],
        ['{"a": 1}', "a=2"],
        ['{"a": NaN}'],
    ],
)
def test_arguments_without_sense_are_refused(words):
    with pytest.raises(CliError):
        Arguments(words)


def test_arguments_number_that_json_has_not_is_text():
    words = ["a=NaN", "b=1e400", "c=-Infinity", "d=[NaN]"]
    assert Arguments(words).value() == {"a": "NaN", "b": "1e400", "c": "-Infinity", "d": "[NaN]"}


@pytest.mark.parametrize("depth", [MAX_NESTING, 100_000])
def test_arguments_nested_too_deeply_are_one_error(depth):
    for word in (
        "a=" + "[" * depth + "]" * depth,
        '{"a":' * (depth + 1) + "1" + "}" * (depth + 1),
        "a." * depth + "b=1",
    ):
        with pytest.raises(CliError, match=f"more than {MAX_NESTING} objects and lists") as caught:
            Arguments([word])
        assert len(str(caught.value)) < 120
    depth = MAX_NESTING - 1
    assert Arguments(["a=" + "[" * depth + "]" * depth]).value()


def test_arguments_are_taken_as_text_where_the_server_wants_a_string():
    arguments = Arguments(["name=2026", "b.0.node=true", "c.d=x", '{"e": 1}'])
    assert arguments.take_as_text("name")
    assert arguments.take_as_text("b[0].node")
    for path in ("name", "c.d", "e", "none"):
        assert not arguments.take_as_text(path)
    value = {"name": "2026", "b": [{"node": "true"}], "c": {"d": "x"}, "e": 1}
    assert arguments.value() == value


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/tmp/a.sock", "/tmp/a.sock"),
        ("unix:/tmp/a:1", "/tmp/a:1"),
        ("localhost:4444", ("localhost", 4444)),
        ("tcp:localhost:4444", ("localhost", 4444)),
        ("tcp:[::1]:4444", ("::1", 4444)),
        (":4444", ("localhost", 4444)),
        ("./odd:7", "./odd:7"),
        ("name", "name"),
    ],
)
def test_address_is_a_path_or_host_and_port(text, address):
    assert parse_address(text) == address


def test_address_tcp_without_port_is_refused():
    with pytest.raises(CliError, match="HOST:PORT"):
        parse_address("tcp:localhost")
