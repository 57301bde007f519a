"""What query-qmp-schema tells, and that it is what QEMU tells but for what is listed here."""

import re

import pytest

from blkxact.qapi.blockdev import DRIVER_MODELS
from blkxact.qapi.events import EVENTS
from blkxact.qapi.introspect import schema

from .models import MODELS
from .oracle import ask_qemu

OURS_ONLY = re.compile(r"transaction: properties\.(completion-mode = deferred|id )")
SERVED = "|".join([*DRIVER_MODELS, "unix", "inet", "iothread", "throttle-group"])
NOT_SERVED = re.compile(
    r"\b(driver|backing-fmt|qom-type|addr\.type|server\.type|add: type) = (?!(" + SERVED + r")$)"
    r"|(blockdev-.*|add: .*|addr)<(?!(" + SERVED + r")>)"
    r"|\.encrypt\b|\.mptcp\b"
)
"""What QEMU's schema has and blkxact refuses."""


@pytest.fixture(scope="module")
def ours():
    return Schema(schema(MODELS))


@pytest.fixture(scope="module")
def theirs():
    (reply,) = ask_qemu([("query-qmp-schema", {})])
    return Schema(reply["return"])


class Schema:
    """A schema that can be walked by name."""

    def __init__(self, infos):
        self.by_name = {info["name"]: info for info in infos}
        assert len(self.by_name) == len(infos)

    def facts(self, command):
        """Return everything that a client can find below a command's arguments, as sentences."""
        found = set()
        self._walk(self.by_name[command]["arg-type"], "", found, ())
        return {f"{command}: {fact}" for fact in found}

    def _walk(self, name, path, found, above):
        if name in above:
            found.add(f"{path} again")
            return
        above = (*above, name)
        info = self.by_name[name]
        match info["meta-type"]:
            case "builtin":
                found.add(f"{path} is {info['json-type']}")
            case "enum":
                assert info["values"] == [member["name"] for member in info["members"]]
                found.update(f"{path} = {value}" for value in info["values"])
            case "array":
                self._walk(info["element-type"], f"{path}[]", found, above)
            case "alternate":
                for member in info["members"]:
                    self._walk(member["type"], path, found, above)
            case "object":
                self._walk_object(info, path, found, above)

    def _walk_object(self, info, path, found, above):
        found.update(f"{path} has {feature}" for feature in info.get("features", []))
        for member in info["members"]:
            where = f"{path}.{member['name']}".lstrip(".")
            assert member.get("default") is None
            found.add(f"{where} {'optional' if 'default' in member else 'mandatory'}")
            self._walk(member["type"], where, found, above)
        for variant in info.get("variants", []):
            self._walk(variant["type"], f"{path}<{variant['case']}>", found, above)


@pytest.mark.qemu
@pytest.mark.parametrize("command", sorted(MODELS))
def test_schema_of_command_is_qemus_but_for_what_is_listed(ours, theirs, command):
    here, there = ours.facts(command), theirs.facts(command)
    assert {fact for fact in here - there if not OURS_ONLY.search(fact)} == set()
    assert {fact for fact in there - here if not NOT_SERVED.search(fact)} == set()


@pytest.mark.qemu
@pytest.mark.parametrize("command", sorted(MODELS))
def test_schema_of_command_has_qemus_features(ours, theirs, command):
    assert ours.by_name[command].get("features") == theirs.by_name[command].get("features")


@pytest.mark.qemu
@pytest.mark.parametrize("event", sorted(EVENTS.keys() - {"TRANSACTION_COMPLETED"}))
def test_schema_of_event_is_qemus(ours, theirs, event):
    assert ours.facts(event) == theirs.facts(event)


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


def test_schema_of_our_completion_mode_is_told(ours):
    facts = ours.facts("transaction")
    assert "transaction: properties.completion-mode = deferred" in facts
    assert "transaction: properties.id optional" in facts
