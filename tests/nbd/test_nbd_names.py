"""Names that stand for an export, and the names that exports are told by."""

from __future__ import annotations

from typing import Any

import pytest

from blkxact.drivers.driver_options import driver_options
from blkxact.drivers.image_options import protocol_options
from blkxact.drivers.nbd.driver import NbdDriver
from blkxact.drivers.nbd.options import check_lengths, modern, short_name, tls_name
from blkxact.errors import QmpError


def no_device(path: str) -> bool:
    """All plain names are files here."""
    del path
    return False


def unix(path: str, export: str | None = None) -> dict[str, Any]:
    return _options({"type": "unix", "path": path}, export)


def inet(host: str, port: str, export: str | None = None) -> dict[str, Any]:
    return _options({"type": "inet", "host": host, "port": port}, export)


def _options(server: dict[str, Any], export: str | None) -> dict[str, Any]:
    named = {} if export is None else {"export": export}
    return {"driver": "nbd", **named, "server": server}


NAMES = {
    "nbd://host:1/x": inet("host", "1", "x"),
    "nbd+tcp://host/x/y": inet("host", "10809", "x/y"),
    "nbd://host": inet("host", "10809"),
    "nbd://host/": inet("host", "10809"),
    "nbd://Host:1/a%20b%2f": inet("Host", "1", "a b/"),
    "nbd://[::1]:1/x": inet("::1", "1", "x"),
    "nbd://[::1]": inet("::1", "10809"),
    "nbd+unix:///x?socket=/a%20b": unix("/a b", "x"),
    "nbd+unix:///?socket=rel": unix("rel"),
    "nbd+unix://?socket=/s": unix("/s"),
    "nbd:unix:/s": unix("/s"),
    "nbd:unix:/s:exportname=x:y": unix("/s", "x:y"),
    "nbd:host:1": inet("host", "1"),
    "nbd:host:http:exportname=x": inet("host", "http", "x"),
    "nbd:[::1]:1:exportname=x": inet("::1", "1", "x"),
    "nbd::1": inet("", "1"),
    "nbd:host:1,ipv4=on:exportname=x": inet("host", "1", "x"),
}

WRONG = {
    "nbd://": "No valid URL specified",
    "nbd:///x": "No valid URL specified",
    "nbd://host:port/x": "No valid URL specified",
    "nbd://host/x?socket=/s": "No valid URL specified",
    "nbd+unix:///x": "No valid URL specified",
    "nbd+unix:///x?socket=/s&more=1": "No valid URL specified",
    "nbd+unix:///x?path=/s": "No valid URL specified",
    "nbd+unix://host/x?socket=/s": "No valid URL specified",
    "nbd:host": "error parsing address 'host'",
    "nbd:[::1": "error parsing IPv6 address '[::1'",
    "nbd:[::1]": "error parsing IPv6 address '[::1]'",
    "nbd::": "error parsing port in address ':'",
    "nbd:": "NBD server address missing",
    "nbd:unix:/s:exportname=": "NBD server address missing",
    "nbds://host/x": "Unknown protocol 'nbds'",
    "nbd+tls://host/x": "Unknown protocol 'nbd+tls'",
}


def read_options(members: dict[str, Any]) -> Any:
    own = {name: value for name, value in members.items() if name != "driver"}
    options = driver_options(NbdDriver, own, {}).options
    check_lengths(options)
    return options


@pytest.mark.parametrize(("name", "options"), NAMES.items())
def test_name_stands_for_the_options_that_it_has_in_qemu(
    name: str, options: dict[str, Any]
) -> None:
    assert protocol_options(name, no_device) == options


@pytest.mark.parametrize(("name", "text"), WRONG.items())
def test_name_without_sense_is_refused_in_the_words_of_qemu(name: str, text: str) -> None:
    with pytest.raises(QmpError) as caught:
        read_options(protocol_options(name, no_device))
    assert caught.value.desc == text


TOLD = {
    "nbd://host:1/x": "nbd://host:1/x",
    "nbd:host:1": "nbd://host:1",
    "nbd:unix:/s:exportname=x": "nbd+unix:///x?socket=/s",
    "nbd:unix:/s": "nbd+unix://?socket=/s",
}


@pytest.mark.parametrize(("name", "told"), TOLD.items())
def test_export_is_told_by_a_name_that_opens_it(name: str, told: str) -> None:
    assert short_name(read_options(protocol_options(name, no_device))) == told
    assert protocol_options(told, no_device) == protocol_options(name, no_device)


def test_address_with_more_to_it_has_no_short_name() -> None:
    server = {"type": "inet", "host": "host", "port": "1", "ipv4": True}
    assert short_name(read_options({"server": server})) == ""


def test_members_may_be_texts() -> None:
    server = {"type": "unix", "path": "/s", "abstract": "on"}
    options = read_options({"server": server, "reconnect-delay": "5", "open-timeout": 6})
    assert (options.reconnect_delay, options.open_timeout) == (5, 6)
    assert options.server.abstract is True


OLD = [
    ({"path": "/s", "host": "h"}, "path and host may not be used at the same time"),
    ({"path": "/s", "port": "1"}, "port may not be used without host"),
    ({"path": "/s", "server": {"type": "unix", "path": "/s"}},
     "Cannot use 'server' and path/host/port at the same time"),
    ({"port": "1"}, "NBD server address missing"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "text"), OLD)
def test_old_members_that_contradict_each_other_are_refused(
    options: dict[str, Any], text: str
) -> None:
    with pytest.raises(QmpError) as caught:
        read_options(options)
    assert caught.value.desc == text


def test_old_members_stand_for_a_server() -> None:
    assert read_options({"path": "/s"}) == read_options(unix("/s"))
    assert read_options({"host": "h"}) == read_options(inet("h", "10809"))
    nested = {"driver": "raw", "file": {"driver": "nbd", "path": "/s"}}
    assert modern(nested) == {"driver": "raw", "file": unix("/s")}


def test_hostname_of_the_certificate_is_the_servers_unless_told() -> None:
    assert tls_name(read_options(inet("h", "1"))) == "h"
    assert tls_name(read_options(unix("/s"))) is None
    assert tls_name(read_options({**unix("/s"), "tls-hostname": "t"})) == "t"
