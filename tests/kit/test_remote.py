"""The commands of ``--testing``, as a client in any language uses them: on a real socket."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import asynccontextmanager, suppress

import pytest
from qemu.qmp import ExecuteError, QMPClient, Runstate

from blkxact.commands import COMMANDS, commands_of
from blkxact.machine.options import CommandSet
from blkxact.testing.waiting import until

BACKUP = {"device": "d", "job-id": "j0", "sync": "full", "target": "t", "auto-dismiss": True}
NULL = {"driver": "null-co", "size": 4 << 20}


@asynccontextmanager
async def started(image_dir, *words):
    """Start ``blkxact serve`` and yield its process and two clients."""
    path = str(image_dir / "qmp")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "blkxact", "serve", "--qmp", path, *words),
        stderr=asyncio.subprocess.PIPE,
    )
    assert b"listening" in await process.stderr.readline()
    clients = [QMPClient("a"), QMPClient("b")]
    try:
        for client in clients:
            await client.connect(path)
        yield process, *clients
    finally:
        for client in clients:
            if client.runstate is not Runstate.IDLE:
                with suppress(EOFError):
                    await client.disconnect()
        if process.returncode is None:
            process.terminate()
        await process.communicate()


@pytest.fixture
async def daemon(image_dir):
    async with started(image_dir, "--testing") as (process, client, other):
        for name in ("d", "t"):
            await client.execute("blockdev-add", {**NULL, "node-name": name})
        yield process, client, other


async def test_commands_are_unknown_without_the_option(image_dir):
    async with started(image_dir) as (_, client, _other):
        with pytest.raises(ExecuteError, match="The command x-blkxact-step has not been found"):
            await client.execute("x-blkxact-step", {"job": "j"})
        names = {command["name"] for command in await client.execute("query-commands")}
        assert not [name for name in names if name.startswith("x-blkxact")]
        schema = await client.execute("query-qmp-schema")
        assert "x-blkxact" not in json.dumps(schema)


def test_tables_have_the_commands_only_when_testing():
    wanted = {f"x-blkxact-{name}" for name in TESTING}
    for command_set in CommandSet:
        with_them = commands_of(command_set, testing=True).keys()
        assert with_them - commands_of(command_set).keys() == wanted
    assert not wanted & COMMANDS.keys()
    assert all(name not in COMMANDS for name in wanted)


TESTING = (
    *("clock", "fault-add", "fault-remove", "lose-power", "pause-at"),
    *("record", "step"),
)


async def test_commands_are_listed_with_the_option(daemon):
    _, client, _ = daemon
    schema = await client.execute("query-qmp-schema")
    found = {info["name"] for info in schema if info["meta-type"] == "command"}
    assert {f"x-blkxact-{name}" for name in TESTING} <= found


async def test_fault_fails_a_request_and_is_counted(daemon):
    _, client, _ = daemon
    ordered = await client.execute("x-blkxact-fault-add", {"place": "t.write", "errno": 28})
    with client.listener("BLOCK_JOB_COMPLETED") as completed:
        await client.execute("blockdev-backup", BACKUP)
        event = await completed.get()
    assert event["data"]["error"] == "No space left on device"
    assert await client.execute("x-blkxact-fault-remove", ordered) == {"struck": 1}
    with pytest.raises(ExecuteError, match="There is no fault or pause 1"):
        await client.execute("x-blkxact-fault-remove", ordered)


async def test_fault_drops_a_reply(daemon):
    _, client, other = daemon
    place = {
        "place": "monitor.reply",
        "action": "cut",
        "facts": [{"name": "command", "value": "query-jobs"}],
    }
    await client.execute("x-blkxact-fault-add", place)
    with pytest.raises(Exception, match=r"EOF|isconnect"):
        await client.execute("query-jobs")
    assert await other.execute("query-jobs") == []


async def test_fault_kills_the_process(daemon):
    process, client, _ = daemon
    await client.execute("x-blkxact-fault-add", {"place": "command.execute", "action": "kill"})
    with pytest.raises(Exception, match=r"EOF|isconnect"):
        await client.execute("query-jobs")
    assert await process.wait() == -signal.SIGKILL


async def test_pause_holds_who_passes_until_it_is_removed(daemon):
    _, client, other = daemon
    ordered = await client.execute("x-blkxact-pause-at", {"place": "job.start"})
    await client.execute("blockdev-backup", BACKUP)
    assert await other.execute("x-blkxact-pause-at", ordered) == ordered
    [job] = await client.execute("query-jobs")
    assert (job["status"], job["current-progress"]) == ("running", 0)
    with client.listener("BLOCK_JOB_COMPLETED") as completed:
        assert await other.execute("x-blkxact-fault-remove", ordered) == {"struck": 1}
        assert "error" not in (await completed.get())["data"]


async def test_job_is_stepped_and_released(daemon):
    _, client, _ = daemon
    assert await client.execute("x-blkxact-step", {"job": "j0"}) == {"more": True}
    with client.listener("BLOCK_JOB_COMPLETED") as completed:
        await client.execute("blockdev-backup", {**BACKUP, "speed": 1 << 40})
        assert await client.execute("x-blkxact-step", {"job": "j0"}) == {"more": True}
        assert len(await client.execute("query-jobs")) == 1
        await client.execute("x-blkxact-step", {"job": "j0", "release": True})
        assert "error" not in (await completed.get())["data"]


async def test_time_passes_at_once(daemon):
    _, client, _ = daemon
    with client.listener("BLOCK_JOB_COMPLETED") as completed:
        await client.execute("blockdev-backup", {**BACKUP, "speed": 1024})
        await client.execute("x-blkxact-clock", {"milliseconds": 5 * 3600 * 1000})
        assert "error" not in (await completed.get())["data"]


async def test_record_has_the_passings_without_those_of_its_own_commands(daemon):
    _, client, _ = daemon
    assert await client.execute("x-blkxact-record", {"enable": True}) == {"passings": []}
    await client.execute("query-jobs")
    await client.execute("query-jobs")
    noted = await client.execute("x-blkxact-record", {"enable": False})
    assert "command.execute query-jobs #2" in noted["passings"]
    assert not [one for one in noted["passings"] if "x-blkxact" in one]
    await client.execute("query-jobs")
    assert await client.execute("x-blkxact-record", {"enable": False}) == {"passings": []}


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("pause-at", {"place": "transaction.commit"}, "nobody can wait at transaction.commit"),
        ("pause-at", {}, "Either 'place' or 'id' is required"),
        ("pause-at", {"id": 7}, "There is no pause 7"),
        ("fault-add", {"place": "x"}, "there is no point 'x'; .*"),
        ("fault-add", {"place": "job.commit"}, "nothing can fail at job.commit"),
        ("clock", {"milliseconds": -1}, "Parameter 'milliseconds' expects a non-negative value"),
        ("step", {}, "Parameter 'job' is missing"),
    ],
)
async def test_mistake_is_refused(daemon, command, arguments, message):
    _, client, _ = daemon
    with pytest.raises(ExecuteError, match=message):
        await client.execute(f"x-blkxact-{command}", arguments)


@pytest.mark.parametrize("option", ["-testing", "-testing-power"])
async def test_system_has_the_options_too(image_dir, option):
    path = image_dir / "qmp"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "blkxact", "system", "-M", "none", option),
        *("-qmp", f"unix:{path},server=on,wait=on"),
    )
    client = QMPClient("system")
    await until(path.exists)
    await client.connect(str(path))
    assert await client.execute("x-blkxact-record", {"enable": False}) == {"passings": []}
    await client.execute("quit")
    with suppress(EOFError):
        await client.disconnect()
    assert await process.wait() == 0


SECTOR = 512
DATA = b"n" * 8 * SECTOR
BEFORE_FLUSH = {"place": "job.before-flush"}


async def power_fails_at_a_place(client, seed):
    fault = {**BEFORE_FLUSH, "action": "power", "seed": seed}
    await client.execute("x-blkxact-fault-add", fault)
    await client.execute("blockdev-backup", BACKUP)


async def power_fails_by_command(client, seed):
    pause = await client.execute("x-blkxact-pause-at", BEFORE_FLUSH)
    await client.execute("blockdev-backup", BACKUP)
    await client.execute("x-blkxact-pause-at", pause)
    with pytest.raises(Exception, match=r"EOF|isconnect"):
        await client.execute("x-blkxact-lose-power", {"seed": seed})


async def target_after(image_dir, fails, seed):
    """Let the power fail before a backup is flushed; return what its target holds."""
    for name, data in (("d", DATA), ("t", bytes(len(DATA)))):
        (image_dir / name).write_bytes(data)
    async with started(image_dir, "--testing-power") as (process, client, _):
        for name in ("d", "t"):
            node = {"driver": "file", "filename": str(image_dir / name), "node-name": name}
            await client.execute("blockdev-add", node)
        await fails(client, seed)
        assert await process.wait() == -signal.SIGKILL
    (image_dir / "qmp").unlink()
    return (image_dir / "t").read_bytes()


@pytest.mark.parametrize("fails", [power_fails_at_a_place, power_fails_by_command])
async def test_power_failure_leaves_what_its_seed_says(image_dir, fails):
    found = [await target_after(image_dir, fails, seed) for seed in (*range(6), 0)]
    assert found[0] == found[-1], "the seed is the same"
    assert len(set(found)) > 1, "what was not flushed is there, gone or torn"
    for held in found:
        sectors = {held[at : at + SECTOR] for at in range(0, len(DATA), SECTOR)}
        assert sectors <= {DATA[:SECTOR], bytes(SECTOR)}


@pytest.mark.parametrize(
    ("command", "arguments"),
    [("lose-power", {}), ("fault-add", {**BEFORE_FLUSH, "action": "power"})],
)
async def test_power_does_not_fail_where_nobody_notes_what_is_flushed(daemon, command, arguments):
    _, client, _ = daemon
    message = "Only a daemon with --testing-power can lose power"
    with pytest.raises(ExecuteError, match=message):
        await client.execute(f"x-blkxact-{command}", arguments)
    assert await client.execute("query-jobs") == []
