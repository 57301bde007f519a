"""``-preconfig``: what is there before the machine is made, as in QEMU."""

from __future__ import annotations

import json
import subprocess

import pytest
from cli_runs import TIMEOUT
from programs import SYSTEM

QEMU = "qemu-system-x86_64"
BASE = ("-M", "none", "-nodefaults", "-display", "none", "-preconfig")
DRIVE = ("-drive", "if=none,id=d,driver=null-co,read-zeroes=on")
PROGRAMS = [SYSTEM, pytest.param(QEMU, marks=pytest.mark.qemu)]
ENDING = {"quit", "x-exit-preconfig", "qmp_capabilities", "query-qmp-schema"}


def talk(program: str, said: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [program, *BASE, *DRIVE, *words]
    return subprocess.run(
        command, input=said, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


def qmp(program: str, *commands: str, words: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """Return what commands return, or the text of their errors; and the names of events."""
    said = "".join(json.dumps({"execute": name}) for name in ("qmp_capabilities", *commands))
    done = talk(program, said, "-qmp", "stdio", *words)
    messages = [json.loads(line) for line in done.stdout.splitlines()[2:]]
    events = [message["event"] for message in messages if "event" in message]
    replies = [message for message in messages if "event" not in message]
    return [str(one.get("return", one.get("error", {}).get("desc"))) for one in replies], events


@pytest.mark.parametrize("program", PROGRAMS)
def test_machine_begins_with_x_exit_preconfig(program):
    once = "The command is permitted only before machine initialization"
    later = "The command 'stop' is permitted only after machine initialization has completed"
    commands = ("query-status", "stop", "x-exit-preconfig", "query-status", "x-exit-preconfig")
    replies, events = qmp(program, *commands, "quit")
    assert "'status': 'prelaunch'" in replies[0]
    assert "'status': 'running'" in replies[3]
    assert [replies[1], replies[2], *replies[4:]] == [later, "{}", once, "{}"]
    assert events == ["RESUME", "SHUTDOWN"]
    replies, events = qmp(program, "x-exit-preconfig", "query-status", "quit", words=("-S",))
    assert "'status': 'prelaunch'" in replies[1]
    assert events == ["SHUTDOWN"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_human_monitor_has_some_of_its_commands(program):
    lines = 'info block\ninfo status\nqemu-io d "read 0 4k"\nfoo\nexit_preconfig\ninfo status\n'
    done = talk(program, f"{lines}exit_preconfig\nquit\n", "-monitor", "stdio")
    answers = [line for line in done.stdout.splitlines() if line and "(qemu)" not in line]
    not_yet = "not available until machine initialization has completed."
    assert answers[1:] == [
        f"Command 'info block' {not_yet}",
        "VM status: paused (prelaunch)",
        f"Command 'qemu-io' {not_yet}",
        "unknown command: 'foo'",
        "VM status: running",
        "Error: The command is permitted only before machine initialization",
    ]


@pytest.mark.parametrize("program", PROGRAMS)
def test_device_that_cannot_be_made_ends_the_program(program):
    said = (
        '{"execute": "qmp_capabilities"}{"execute": "query-block"}{"execute": "x-exit-preconfig"}'
    )
    done = talk(program, said, "-device", "foo", "-qmp", "stdio")
    text = "-device foo: 'foo' is not a valid device model name"
    assert done.stderr.endswith(f"{text}\n")
    assert done.returncode == 1
    *_, block, last = [json.loads(line) for line in done.stdout.splitlines()]
    if program == SYSTEM:  # QEMU ends without a reply
        assert last["error"]["desc"] == text
    else:
        assert (block, last["return"][0]["device"]) == ({"return": {}}, "d")


@pytest.mark.parametrize("program", PROGRAMS)
def test_devices_are_made_later(program):
    device = ("-device", "virtio-scsi,id=s", "-M", "pc")
    found, _ = qmp(program, "query-block", "x-exit-preconfig", "query-block", "quit", words=device)
    assert "'device': 'd'" in found[0]
    assert found[1] == "{}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_loadvm_is_refused(program):
    done = talk(program, "", "-loadvm", "x")
    text = "'preconfig' and 'loadvm' options are mutually exclusive"
    assert done.stderr.strip().endswith(text)
    assert done.returncode == 1


@pytest.mark.qemu
def test_same_commands_are_permitted_as_in_qemu():
    text = qmp(QEMU, "query-commands", "quit")[0][0]
    names = sorted({one["name"] for one in eval(text)} - ENDING)
    refused = []
    for program in (QEMU, SYSTEM):
        replies, _ = qmp(program, *names, "quit")
        pairs = zip(names, replies, strict=False)
        refused.append([name for name, reply in pairs if "after machine init" in reply])
    assert refused[0] == refused[1]
    assert len(refused[0]) > 100
