"""The commands that each of QEMU's programs has are those that a client finds here."""

from pathlib import Path

import pytest

from blkxact.commands import commands_of
from blkxact.commands.without_guest import WITHOUT_GUEST, as_markdown
from blkxact.errors import QmpError
from blkxact.machine.options import CommandSet

from .oracle import STORAGE_DAEMON, SYSTEM, ask_program

OURS = {"query-transactions"}
DOCS = Path(__file__).parents[2] / "docs" / "commands-without-a-guest.md"


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("command_set", "program"),
    [(CommandSet.SYSTEM, SYSTEM), (CommandSet.STORAGE_DAEMON, STORAGE_DAEMON)],
)
def test_commands_of_each_program_are_qemus(command_set, program):
    (reply,) = ask_program(program, [("query-commands", {})])
    theirs = {command["name"] for command in reply["return"]}
    ours = commands_of(command_set).keys()
    assert ours - theirs == OURS
    assert theirs - ours == set()


def test_commands_of_serve_are_those_that_do_something():
    of_system = commands_of(CommandSet.SYSTEM).keys()
    assert commands_of(CommandSet.ALL).keys() == of_system - WITHOUT_GUEST.keys()


def test_commands_without_a_guest_are_documented_by_their_table():
    assert DOCS.read_text() == as_markdown()


@pytest.mark.parametrize("name", sorted(WITHOUT_GUEST))
async def test_command_without_a_guest_says_what_is_missing(system, name):
    with pytest.raises(QmpError) as refused:
        await system.execute(name)
    missing = WITHOUT_GUEST[name]
    assert refused.value.desc == f"The command {name} needs {missing}, which blkxact does not have"
