"""KEY=VALUE words of ``blkxact qmp``, and the addresses of servers."""

from __future__ import annotations

import pytest

from blkxact.cli.arguments import parse_arguments
from blkxact.cli.client import parse_address
from blkxact.cli.errors import CliError


def test_arguments_take_json_as_json_and_the_rest_as_text():
    words = ["a=1", "b=true", "c=disk0", 'd="0"', "e=", "f=null", 'g={"x": [1]}', "h=a=b"]
    assert parse_arguments(words) == {
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
    assert parse_arguments(words) == {
        "file": {"driver": "file", "filename": "a"},
        "bitmaps": [{"node": "n"}, "y"],
    }


def test_arguments_word_in_braces_gives_all_its_members():
    assert parse_arguments(['{"actions": []}', "x=1"]) == {"actions": [], "x": 1}


@pytest.mark.parametrize(
    "words", [["a"], ["=1"], ["a=1", "a=2"], ["a=1", "a.b=2"], ["a.0=1", "a.2=1"], ["{"]]
)
def test_arguments_without_sense_are_refused(words):
    with pytest.raises(CliError):
        parse_arguments(words)


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
