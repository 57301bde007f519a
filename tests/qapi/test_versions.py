"""What differs from release to release: commands, requests, results and the schema."""

import ast
import json
import lzma
import re
from pathlib import Path

import pytest

import blkxact
from blkxact.commands import COMMANDS, commands_of
from blkxact.errors import QmpError
from blkxact.machine.options import CommandSet
from blkxact.qapi.describe import Alternate, Array, Struct, Union_, describe
from blkxact.qapi.introspect import schema
from blkxact.qapi.notation import returned
from blkxact.qapi.versions import (
    FEATURES_SINCE,
    KINDS_SINCE,
    MANDATORY_SINCE,
    SINCE,
    TAG_SINCE,
    UNTIL,
)
from blkxact.qmp.json_text import encode
from blkxact.runtime.release import RELEASES
from tests.emulator import Emulator

from .facts import Schema
from .test_introspect import OURS, is_left_out

SOURCE = Path(blkxact.__file__).parent
SCHEMAS = Path(__file__).parent / "schemas"
"""Answers of real QEMUs to query-qmp-schema."""

OTHER_MACHINES = re.compile(
    r"^(query-(audiodevs|cpu-model-baseline|cpu-model-comparison|cryptodev|firmware-log"
    r"|gic-capabilities|hv-balloon-status-report|migrationthreads|s390x-cpu-polarization)"
    r"|request-ebpf|dump-skeys|inject-ghes-v2-error|set-cpu-topology|cxl-[-a-z]+|xen-event-[a-z]+"
    r"|GUEST_PVSHUTDOWN|HV_BALLOON_STATUS_REPORT|NETDEV_VHOST_USER_[A-Z]+|VFIO_MIGRATION"
    r"|CPU_POLARIZATION_CHANGE|SCLP_CPI_INFO_AVAILABLE|migrate-set-[a-z]+"
    r"|query-dirty-rate|query-stats-schemas): "
)
"""What concerns guests and machines only."""


def schema_of(version):
    release = RELEASES[version]
    commands = commands_of(CommandSet.SYSTEM, release)
    models = {name: command.model for name, command in commands.items()}
    overtaking = {name for name, command in commands.items() if command.allow_oob}
    return Schema(schema(models, out_of_band=overtaking, release=release))


@pytest.mark.parametrize("version", ["10.0", "11.1"])
def test_schema_of_a_newer_release_is_its_own_but_for_what_is_listed(version):
    ours = schema_of(version)
    compressed = (SCHEMAS / f"qmp-schema-{version}.json.xz").read_bytes()
    theirs = Schema(json.loads(lzma.decompress(compressed)))
    differences = []
    for name in sorted(ours.names() | theirs.names()):
        here, there = ours.facts(name), theirs.facts(name)
        differences += (f"+ {fact}" for fact in here - there if not OURS.search(fact))
        differences += (f"- {fact}" for fact in there - here if not is_left_out(fact))
    assert [one for one in differences if not OTHER_MACHINES.search(one[2:])] == []


def test_rows_of_the_tables_name_commands_and_members_that_are_there():
    members = set()
    for command in COMMANDS.values():
        collect(describe(command.model), members, set())
        collect(returned(command.name), members, set())
    named = {*SINCE, *UNTIL, *MANDATORY_SINCE, *TAG_SINCE, *FEATURES_SINCE, *KINDS_SINCE}
    assert named - members - COMMANDS.keys() == set()


NUMBERS = {"major", "minor", "micro"}
TABLES = {"qapi/versions.py", "runtime/release.py"}
"""Modules that may look at the numbers of a release."""


def test_no_other_module_compares_releases():
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE).as_posix()
        if place not in TABLES:
            nodes = ast.walk(ast.parse(path.read_text()))
            found += [f"{place}:{node.lineno}" for node in nodes if looks_at_numbers(node)]
    assert found == []


def looks_at_numbers(node):
    match node:
        case ast.Attribute(attr=attr):
            return attr in NUMBERS
        case ast.Subscript(value=value):
            chosen = ast.unparse(value) == "RELEASES" and isinstance(node.slice, ast.Constant)
            return chosen or is_release(value)
        case ast.Compare(left=left, comparators=others, ops=ops):
            identity = all(isinstance(op, ast.Is | ast.IsNot) for op in ops)
            return not identity and any(map(is_release, [left, *others]))
    return False


def is_release(node):
    return ast.unparse(node).split(".")[-1] in {"release", "_release", "DEFAULT_RELEASE"}


def collect(kind, members, seen):
    match kind:
        case Array(item=item):
            collect(item, members, seen)
        case Alternate(branches=branches) | Union_(branches=branches):
            members |= {getattr(branch, "name", "") for branch in branches.values()}
            for branch in [*branches.values(), getattr(kind, "base", None)]:
                collect(branch, members, seen)
        case Struct() if kind not in seen:
            seen.add(kind)
            for member in kind.members.values():
                members.add(member.full_name)
                collect(member.type, members, seen)


@pytest.fixture
async def emulator(request):
    """Yield an emulator of the release that the test names."""
    made = Emulator()
    made.emulate(request.param)
    yield made
    await made.layer.shutdown()


def of_release(*versions):
    return pytest.mark.parametrize("emulator", versions, indirect=True, ids=versions)


@of_release("7.2")
async def test_member_of_a_newer_release_is_unexpected(emulator):
    with pytest.raises(QmpError, match=r"^Parameter 'boundaries-zap' is unexpected$"):
        await emulator.execute("block-latency-histogram-set", id="d", boundaries_zap=[1])
    with pytest.raises(QmpError, match=r"^Parameter 'flat' is unexpected$"):
        await emulator.execute("query-block", flat=True)


@of_release("7.2")
async def test_other_mistakes_are_reported_before_a_member_of_a_newer_release(emulator):
    with pytest.raises(QmpError, match=r"^Parameter 'id' is missing$"):
        await emulator.execute("block-latency-histogram-set", boundaries_zap="x")


@of_release("11.1")
async def test_member_of_a_newer_release_is_taken(emulator):
    with pytest.raises(QmpError, match=r"^Device 'd' not found$"):
        await emulator.execute("block-latency-histogram-set", id="d", boundaries_zap=[1])
    assert await emulator.execute("query-block", flat=True) == []


@of_release("11.1")
async def test_member_of_an_older_release_is_unexpected(emulator):
    with pytest.raises(QmpError, match=r"^Parameter 'vcpu' is unexpected$"):
        await emulator.execute("trace-event-get-state", name="*", vcpu=1)


@of_release("7.2", "11.1")
async def test_results_have_the_members_of_the_release(emulator):
    await emulator.create_disk("a")
    await emulator.add_disk("a")
    newer = emulator.layer.release.major > 7
    assert ("singlestep" in await emulator.execute("query-status")) is not newer
    for node in await emulator.execute("query-named-block-nodes"):
        assert ("active" in node) is newer
        assert ("children" in node) is newer
    (top, _) = await emulator.execute("query-named-block-nodes") if newer else (None, None)
    if newer:
        assert [child["child"] for child in top["children"]] == ["file"]
    for info in await emulator.execute("query-blockstats", query_nodes=True):
        assert ("zone_append_bytes" in info["stats"]) is newer


@of_release("7.2", "11.1")
async def test_commands_are_those_of_the_release(emulator):
    names = {command["name"] for command in await emulator.execute("query-commands")}
    newer = emulator.layer.release.major > 7
    assert ("x-query-profile" in names) is not newer
    assert ("x-query-interrupt-controllers" in names) is newer


async def test_members_that_are_left_out_do_not_change_the_order_of_the_others() -> None:
    emulator = Emulator()
    await emulator.execute("blockdev-add", driver="null-co", node_name="n")
    emulator.plug("n")
    line = encode(await emulator.execute("query-blockstats"))
    # Both names are in one bucket of QEMU's hash table, which shows the last first.
    assert 0 < line.index(b'"failed_wr_operations"') < line.index(b'"failed_rd_operations"')
