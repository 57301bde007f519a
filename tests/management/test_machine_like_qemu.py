"""What management programs ask of a machine that has nothing: the answers are QEMU's."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from blkxact.commands import commands_of
from blkxact.commands.machine import ANSWERS, REFUSALS
from blkxact.errors import QmpError
from blkxact.machine.options import CommandSet

from .oracle import SYSTEM, ask_program

OURS = {
    "query-chardev-backends",
    "query-cpu-definitions",
    "query-dump-guest-memory-capability",
    "query-migrate-capabilities",
    "query-migrate-parameters",
    "query-tpm-models",
    "query-tpm-types",
    "x-query-jit",
    "x-query-opcount",
    "x-query-ramblock",
}
"""What blkxact has less of than QEMU, and says so."""

HERE = commands_of(CommandSet.SYSTEM).keys()
QUESTIONS = [
    *((name, {}) for name in sorted(((ANSWERS.keys() | REFUSALS.keys()) & HERE) - OURS)),
    ("balloon", {"value": 5}),
    ("balloon", {}),
    ("closefd", {"fdname": "x"}),
    ("device-list-properties", {"typename": "iothread"}),
    ("device-list-properties", {"typename": "nope"}),
    ("getfd", {"fdname": "1"}),
    ("add-fd", {"fdset-id": -1}),
    ("input-send-event", {"events": []}),
    ("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]}),
    ("migrate-set-capabilities", {"capabilities": [{"capability": "nope", "state": True}]}),
    ("object-add", {"qom-type": "memory-backend-ram", "id": "m", "size": 0}),
    ("object-add", {"qom-type": "memory-backend-ram", "id": "m"}),
    ("object-add", {"qom-type": "secret", "id": "s", "data": "a", "file": "b"}),
    ("object-add", {"qom-type": "secret", "id": "s"}),
    ("object-add", {"qom-type": "secret", "id": "s", "data": "a"}),
    ("qom-list-properties", {"typename": "nope"}),
    ("qom-list-properties", {"typename": "iothread"}),
    ("qom-list-types", {"implements": "accel"}),
    ("qom-list-types", {"implements": "nope"}),
    ("query-balloon", {}),
    ("query-command-line-options", {"option": "nope"}),
    ("query-cpus-fast", {}),
    ("query-fdsets", {}),
    ("query-iothreads", {}),
    ("query-memory-size-summary", {}),
    ("query-name", {}),
    ("query-rx-filter", {}),
    ("query-rx-filter", {"name": "x"}),
    ("query-stats", {"target": "vm"}),
    ("query-stats-schemas", {}),
    ("query-stats", {"target": "nope"}),
    ("query-status", {}),
    ("query-uuid", {}),
    ("remove-fd", {"fdset-id": 3}),
    ("remove-fd", {"fdset-id": 3, "fd": 4}),
    ("screendump", {"filename": "/dev/null"}),
    ("screendump", {}),
    ("send-key", {"keys": []}),
    ("set-action", {"reboot": "shutdown"}),
    ("set-action", {"reboot": "nope"}),
    ("trace-event-get-state", {"name": "nope"}),
    ("trace-event-get-state", {"name": "nope*"}),
    ("trace-event-get-state", {"name": "*", "vcpu": 3}),
    ("trace-event-set-state", {"name": "nope", "enable": True}),
    ("watchdog-set-action", {"action": "poweroff"}),
]


@pytest.fixture(scope="module")
def theirs():
    return ask_program(SYSTEM, QUESTIONS)


@pytest.mark.qemu
@pytest.mark.parametrize("number", range(len(QUESTIONS)), ids=[name for name, _ in QUESTIONS])
async def test_answer_is_qemus(system, theirs, number):
    await system.execute("stop")
    system.layer.machine.reset(())  # what -S does
    name, arguments = QUESTIONS[number]
    if name == "qom-list-types" and arguments["implements"] == "accel":
        theirs[number]["return"] = [
            each
            for each in theirs[number]["return"]
            if each["name"] in ("accel", "kvm-accel", "tcg-accel")
        ]
    try:
        answer = {"return": await system.execute_wire(name, arguments)}
    except QmpError as error:
        answer = {"error": error.as_reply()}
    assert ordered(answer) == ordered(theirs[number])


def ordered(answer):
    """Return an answer with its lists sorted: what is a list here is a set."""
    value = answer.get("return")
    return {"return": sorted(value, key=repr)} if isinstance(value, list) else answer


OWN_DRIVES = {"copy-on-read"}
"""Parameters of ``-drive`` that are refused here."""


@pytest.mark.qemu
async def test_options_of_the_command_line_and_their_parameters_are_qemus(system):
    (theirs,) = ask_program(SYSTEM, [("query-command-line-options", {})])
    ours = await system.execute_wire("query-command-line-options", {})
    expected = kinds(theirs["return"])
    expected["drive"] = {k: v for k, v in expected["drive"].items() if k not in OWN_DRIVES}
    expected.pop("")  # one of QEMU's groups has no name
    assert kinds(ours) == expected


def kinds(options):
    """Return the types of the parameters, by option and name."""
    return {
        one["option"]: {parameter["name"]: parameter["type"] for parameter in one["parameters"]}
        for one in options
    }


GREETED = b'{"execute":"qmp_capabilities"}{"execute":"quit"}'


@pytest.mark.qemu
def test_greeting_is_qemus_text_but_for_the_package():
    """Two members have one place in QEMU's table of names: the last one comes first."""
    ours = Path(sys.executable).with_name("blkxact-system-x86_64")
    lines = []
    for program in (SYSTEM[0], str(ours)):
        words = [program, *SYSTEM[1:]]
        done = subprocess.run(words, input=GREETED, capture_output=True, timeout=60, check=True)
        greeting = done.stdout.splitlines()[0].decode()
        lines.append(re.sub(r'"package": "[^"]*"', "", greeting))
    assert lines[0] == lines[1]
