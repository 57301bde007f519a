"""The words of ``blkxact serve`` become ``ServeOptions``, or one clear refusal."""

from __future__ import annotations

import pytest

from blkxact.cli.errors import CliError
from blkxact.cli.serve import read_words
from blkxact.machine.options import (
    ChardevSocket,
    ChardevUnused,
    FdAddress,
    InetAddress,
    MonitorOptions,
    ServeOptions,
    UnixAddress,
)


def options(*words):
    made = ServeOptions()
    assert read_words(words, made, "blkxact serve") is None
    return made


SOCKET = "socket,id=m,path=/tmp/s,server=on,wait=off"


def test_serve_without_options_has_nothing():
    empty = options()
    assert empty.steps == []
    assert empty.pidfile is None
    assert empty.default_completion_mode == "individual"


def test_serve_blockdev_takes_keyval_and_json():
    made = options(
        "--blockdev", "qcow2,node-name=a,file.driver=file,file.filename=a,,b",
        "--blockdev", '{"driver": "null-co", "node-name": "n", "size": 1024}',
    )  # fmt: skip
    assert made.of("blockdev") == [
        {"driver": "qcow2", "node-name": "a", "file": {"driver": "file", "filename": "a,b"}},
        {"driver": "null-co", "node-name": "n", "size": 1024},
    ]


def test_serve_makes_things_in_the_order_of_the_words():
    made = options(
        "--monitor", "m", "--export", "nbd,id=e", "--chardev", SOCKET,
        "--object", "iothread,id=t", "--blockdev", "null-co",
    )  # fmt: skip
    kinds = [step.kind for step in made.steps]
    assert kinds == ["monitor", "export", "chardev", "object", "blockdev"]
    assert made.steps[1].where == "--export nbd,id=e"


def test_serve_object_needs_type_and_id():
    made = options("--object", "throttle-group,id=t,limits.iops-total=1")
    assert made.of("object") == [
        {"qom-type": "throttle-group", "id": "t", "limits": {"iops-total": "1"}}
    ]
    with pytest.raises(CliError, match=r"--object throttle-group: Parameter 'id' is missing"):
        options("--object", "throttle-group")


def test_serve_monitor_on_a_chardev_has_its_options():
    made = options("--chardev", SOCKET, "--monitor", "m,pretty=on,id=x")
    assert made.of("chardev") == [ChardevSocket("m", UnixAddress("/tmp/s"))]
    assert made.of("monitor") == [MonitorOptions("m", "x", pretty=True)]


@pytest.mark.parametrize(
    ("text", "address", "server", "wait"),
    [
        ("/tmp/q", UnixAddress("/tmp/q"), True, False),
        ("unix:/tmp/q,server=on,wait=off", UnixAddress("/tmp/q"), True, False),
        ("unix:/tmp/q,server,nowait", UnixAddress("/tmp/q"), True, False),
        ("unix:/tmp/q,server=on", UnixAddress("/tmp/q"), True, True),
        ("unix:path=/tmp/q,server=on", UnixAddress("/tmp/q"), True, True),
        ("unix:/tmp/a,,c", UnixAddress("/tmp/a,c"), False, False),
        ("tcp:localhost:1234,server=on,wait=off", InetAddress("localhost", "1234"), True, False),
        ("tcp::0,server=on,wait=off", InetAddress("127.0.0.1", "0"), True, False),
        ("tcp:[::1]:7,server=on,wait=off", InetAddress("::1", "7"), True, False),
    ],
)
def test_serve_qmp_short_form_is_a_chardev_and_a_monitor(text, address, server, wait):
    made = options("--qmp", text)
    (chardev,) = made.of("chardev")
    assert (chardev.address, chardev.server, chardev.wait) == (address, server, wait)
    assert made.of("monitor") == [MonitorOptions(chardev.id)]


def test_serve_qmp_twice_gives_two_monitors():
    assert len(options("--qmp", "/tmp/a", "--qmp", "/tmp/b").of("monitor")) == 2


@pytest.mark.parametrize(
    ("text", "chardev"),
    [
        ("socket,id=a,fd=7,server=on", ChardevSocket("a", FdAddress(7), server=True, wait=True)),
        ("socket,id=a,host=h,port=1,to=5,ipv4=on,server=on,wait=off",
         ChardevSocket("a", InetAddress("h", "1", 5, ipv4=True))),
        ("null,id=a", ChardevUnused("a", "null")),
        ("pty,id=a,logfile=/x", ChardevUnused("a", "pty")),
    ],
)  # fmt: skip
def test_serve_chardev_is_what_its_words_say(text, chardev):
    assert options("--chardev", text).of("chardev") == [chardev]


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["--chardev", "socket,path=/x,server=on"], "chardev: no id specified"),
        (["--chardev", "id=a"], 'chardev: "a" missing backend'),
        (["--chardev", "foo,id=a,path=/x"], "'foo' is not a valid char driver name"),
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
        (["--chardev", "socket,id=a,server=on"], "Unable to parse FD number "),
        (
            ["--chardev", "socket,id=a,path=/x,fd=3"],
            "None or one of 'path', 'fd' or 'host' option required.",
        ),
        (["--chardev", "socket,id=a,host=h,port=1,telnet=on"], "'telnet' is not supported"),
        (["--monitor", "mode=control"], "Parameter 'chardev' is missing"),
        (["--monitor", "m,mode=readline"], "--monitor m,mode=readline: Only QMP is supported"),
        (["--monitor", "m,foo=on"], "Parameter 'foo' is unexpected"),
        (["--monitor", "m,pretty=x"], "Parameter 'pretty' expects"),
        (["--blockdev", '{"driver"'], "JSON parse error"),
        (["--blockdev", "qcow2,=x"], "--blockdev qcow2,=x: "),
        (["--qmp", "udp:x"], "unix:PATH, tcp:HOST:PORT or a path is expected"),
        (["--qmp", "unix:/tmp/a=b"], "parse error: unix:/tmp/a=b"),
        (["--qmp", "tcp:1234"], "parse error: tcp:1234"),
        (["--nbd-server", "addr.type=unix,=x"], "--nbd-server addr.type=unix,=x: "),
        (["--export", "nbd,=x"], "--export nbd,=x: "),
        (["--emulate", "6.0"], "--emulate 6.0: there are 7.2, "),
        (["--foo"], "unrecognized option '--foo'"),
        (["-f"], "invalid option -- 'f'"),
        (["foo"], "foo: Unexpected argument"),
        (["--blockdev"], "option '--blockdev' requires an argument"),
        (["--daemonize=x"], "option '--daemonize' doesn't allow an argument"),
        (["--ex"], "option '--export' requires an argument"),
        (["-T"], "option requires an argument -- 'T'"),
        (["--ver"], "option '--ver' is ambiguous; possibilities: '--version' '--verbose'"),
    ],
)
def test_serve_option_without_sense_is_refused_by_name(words, refusal):
    with pytest.raises(CliError) as caught:
        options(*words)
    assert refusal in str(caught.value)
