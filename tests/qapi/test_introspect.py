"""query-qmp-schema: QEMU's, fact by fact, but for what the table of what is left out names."""

import re
from pathlib import Path

import pytest

from blkxact.commands import commands_of
from blkxact.commands.left_out import LEFT_OUT, as_markdown
from blkxact.machine.options import CommandSet
from blkxact.qapi.introspect import schema

from .facts import Schema
from .oracle import ask_qemu

OURS = re.compile(
    r"^query-transactions: |^TRANSACTION_COMPLETED: "
    r"|^transaction: properties\.(completion-mode = deferred$|id )"
    r"|^send-key: keys\[\] is value$|^input-send-event: events\[\] is value$"
)
"""What only blkxact has, and two members that are not looked at."""
DOCS = Path(__file__).parents[2] / "docs" / "schema.md"


@pytest.fixture(scope="module")
def ours():
    commands = commands_of(CommandSet.SYSTEM)
    models = {name: command.model for name, command in commands.items()}
    return Schema(schema(models, out_of_band={n for n, one in commands.items() if one.allow_oob}))


@pytest.fixture(scope="module")
def theirs():
    (reply,) = ask_qemu([("query-qmp-schema", {})])
    return Schema(reply["return"])


@pytest.mark.qemu
def test_schema_is_qemus_but_for_what_is_listed(ours, theirs):
    names = ours.names() | theirs.names()
    assert len(names) > 200
    differences = []
    for name in sorted(names):
        here, there = ours.facts(name), theirs.facts(name)
        differences += (f"+ {fact}" for fact in here - there if not OURS.search(fact))
        differences += (f"- {fact}" for fact in there - here if not is_left_out(fact))
    assert differences == []


@pytest.mark.qemu
def test_schema_of_qemu_has_everything_that_is_listed_as_left_out(ours, theirs):
    facts = {fact for name in theirs.names() for fact in theirs.facts(name) - ours.facts(name)}
    assert [row.what for row in LEFT_OUT if not any(map(row.matches, facts))] == []


def is_left_out(fact):
    return any(row.matches(fact) for row in LEFT_OUT)


def test_schema_page_is_made_from_the_table():
    assert DOCS.read_text() == as_markdown()


def test_schema_of_transaction_completed_names_its_members(ours):
    facts = ours.facts("TRANSACTION_COMPLETED")
    assert "TRANSACTION_COMPLETED: bitmaps[].outcome = reclaimed" in facts
    assert "TRANSACTION_COMPLETED: jobs[].error optional" in facts


def test_schema_mentions_no_type_that_it_does_not_tell(ours):
    for name in ours.by_name:
        info = ours.by_name[name]
        mentioned = [info[key] for key in ("arg-type", "ret-type", "element-type") if key in info]
        mentioned += [member["type"] for member in info.get("members", []) if "type" in member]
        mentioned += [variant["type"] for variant in info.get("variants", [])]
        assert set(mentioned) <= ours.by_name.keys()


def test_schema_hides_the_names_of_types_as_qemu_does(ours):
    plain = {"str", "bool", "number", "int", "null", "any"}
    for name, info in ours.by_name.items():
        if info["meta-type"] not in ("command", "event"):
            assert name.strip("[]").isdigit() or name.strip("[]") in plain
