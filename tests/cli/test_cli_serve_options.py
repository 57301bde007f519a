"""The words of ``blkxact serve`` become ``ServeOptions``, or one clear refusal."""

from __future__ import annotations

import argparse

import pytest

from blkxact.cli import serve
from blkxact.cli.errors import CliError
from blkxact.options import ChardevSocket, InetAddress, MonitorOptions, UnixAddress


def options(*words):
    parser = argparse.ArgumentParser()
    serve.configure(parser)
    return serve.serve_options(parser.parse_args(words))


SOCKET = "socket,id=m,path=/tmp/s,server=on,wait=off"


def test_serve_without_options_has_nothing():
    empty = options()
    assert empty.blockdevs == []
    assert empty.monitors == []
    assert empty.pidfile is None
    assert empty.default_completion_mode == "individual"


def test_serve_blockdev_takes_keyval_and_json():
    made = options(
        "--blockdev", "qcow2,node-name=a,file.driver=file,file.filename=a,,b",
        "--blockdev", '{"driver": "null-co", "node-name": "n", "size": 1024}',
    )  # fmt: skip
    assert made.blockdevs == [
        {"driver": "qcow2", "node-name": "a", "file": {"driver": "file", "filename": "a,b"}},
        {"driver": "null-co", "node-name": "n", "size": 1024},
    ]


def test_serve_object_needs_type_and_id():
    made = options("--object", "throttle-group,id=t,limits.iops-total=1")
    assert made.objects == [
        {"qom-type": "throttle-group", "id": "t", "limits": {"iops-total": "1"}}
    ]
    with pytest.raises(CliError, match=r"--object throttle-group: Parameter 'id' is missing"):
        options("--object", "throttle-group")


def test_serve_monitor_on_a_chardev_has_its_options():
    made = options("--chardev", SOCKET, "--monitor", "m,pretty=on,id=x")
    assert made.chardevs == {"m": ChardevSocket("m", UnixAddress("/tmp/s"))}
    assert made.monitors == [MonitorOptions("m", "x", pretty=True)]


@pytest.mark.parametrize(
    ("text", "address", "server", "wait"),
    [
        ("/tmp/q", UnixAddress("/tmp/q"), True, False),
        ("unix:/tmp/q,server=on,wait=off", UnixAddress("/tmp/q"), True, False),
        ("unix:/tmp/q,server,nowait", UnixAddress("/tmp/q"), True, False),
        ("unix:/tmp/q,server=on", UnixAddress("/tmp/q"), True, True),
        ("unix:/tmp/a=b,,c", UnixAddress("/tmp/a=b,c"), False, False),
        ("tcp:localhost:1234,server=on,wait=off", InetAddress("localhost", 1234), True, False),
        ("tcp::0,server=on,wait=off", InetAddress("127.0.0.1", 0), True, False),
        ("tcp:[::1]:7,server=on,wait=off", InetAddress("::1", 7), True, False),
    ],
)
def test_serve_qmp_short_form_is_a_chardev_and_a_monitor(text, address, server, wait):
    made = options("--qmp", text)
    (chardev,) = made.chardevs.values()
    assert (chardev.address, chardev.server, chardev.wait) == (address, server, wait)
    assert made.monitors == [MonitorOptions(chardev.id)]


def test_serve_qmp_twice_gives_two_monitors():
    assert len(options("--qmp", "/tmp/a", "--qmp", "/tmp/b").monitors) == 2


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["--chardev", "socket,path=/x,server=on"], "chardev: no id specified"),
        (["--chardev", "id=a"], 'chardev: "a" missing backend'),
        (["--chardev", "file,id=a,path=/x"], "'file' is not a supported char driver name"),
        (["--chardev", "socket,id=1a,path=/x"], "Parameter 'id' expects an identifier"),
        (["--chardev", "socket,id=a,path=/x,foo=1"], "Invalid parameter 'foo'"),
        (
            ["--chardev", "socket,id=a,path=/x,server=maybe"],
            "Parameter 'server' expects 'on' or 'off'",
        ),
        (
            ["--chardev", "socket,id=a,path=/x,wait=off"],
            "'wait' option is incompatible with socket in client connect mode",
        ),
        (["--chardev", "socket,id=a,host=h,server=on"], "chardev: socket: no port given"),
        (["--chardev", "socket,id=a,server=on"], "no path and no port given"),
        (["--chardev", "socket,id=a,port=70000,server=on"], "'70000' is not a port number"),
        (["--chardev", SOCKET, "--chardev", SOCKET], "Duplicate ID 'm' for chardev"),
        (["--monitor", "nix"], '--monitor nix: chardev "nix" not found'),
        (["--monitor", "mode=control"], "Parameter 'chardev' is missing"),
        (["--chardev", SOCKET, "--monitor", "m,mode=readline"], "Only QMP is supported"),
        (["--chardev", SOCKET, "--monitor", "m", "--monitor", "m"], "Device 'm' is in use"),
        (["--chardev", SOCKET, "--monitor", "m,foo=on"], "Parameter 'foo' is unexpected"),
        (["--chardev", SOCKET, "--monitor", "m,pretty=x"], "Parameter 'pretty' expects"),
        (["--blockdev", '{"driver"'], "JSON parse error"),
        (["--blockdev", "qcow2,=x"], "--blockdev qcow2,=x: "),
        (["--qmp", "udp:x"], "unix:PATH, tcp:HOST:PORT or a path is expected"),
        (["--qmp", "tcp:1234"], "tcp:HOST:PORT is expected"),
        (["--nbd-server", "addr.type=unix,=x"], "--nbd-server addr.type=unix,=x: "),
        (["--export", "nbd,=x"], "--export nbd,=x: "),
    ],
)
def test_serve_option_without_sense_is_refused_by_name(words, refusal):
    with pytest.raises(CliError) as caught:
        options(*words)
    assert refusal in str(caught.value)
