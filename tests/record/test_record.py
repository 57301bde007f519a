"""What is in a record: a whole backup, its limit, secrets, a kill, and what is refused."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from blkxact.bitmap import DirtyBitmap
from blkxact.monitor.observer import HIDDEN, Observer, without_secrets
from blkxact.monitor.recorded import (
    BitmapChanged,
    ClientGone,
    CommandAnswered,
    CommandReceived,
    EventEmitted,
    JobProgress,
    JobStarted,
    RecordBegan,
    RecordFull,
    RequestFailed,
    RestoreDiffers,
)
from blkxact.record.grains import MAX_GRAINS, dirty_ranges, grain_of, ranges_of
from blkxact.record.kinds import KINDS, as_json, from_json
from blkxact.record.reader import RecordError, read_record
from blkxact.record.recorder import Recorder
from blkxact.record.writer import MAX_VALUE, RecordWriter, shortened
from blkxact.report.page import page_of
from tests.emulator import KIB
from tests.one_backup import backup, backup_emulator

TIB = 1 << 40
LIMIT = 1 << 20
CLIENTS = 60


class NoClients:
    """In place of a QmpServer."""

    observer = None


async def recorded(tmp_path, work):
    """Return the events of ``work(emulator)`` on an emulator with a disk ``a`` and a target."""
    emulator = await backup_emulator()
    recorder = Recorder(RecordWriter(str(tmp_path / "r"), LIMIT), "blkxact")
    recorder.attach(emulator.layer, NoClients())
    emulator.layer.trace = recorder
    await work(emulator)
    await emulator.layer.shutdown()
    recorder.close()
    return [entry.event for entry in read_record(tmp_path / "r")]


async def test_backup_is_recorded_with_what_was_dirty_and_what_it_copied(tmp_path):
    events = await recorded(tmp_path, backup)
    range_ = [[0, 64 * KIB]]
    bitmaps = [event for event in events if isinstance(event, BitmapChanged)]
    assert bitmaps[0] == BitmapChanged("a", "b", "frozen", 64 * KIB, 512 * KIB, 64 * KIB, range_)
    assert [bitmap.state for bitmap in bitmaps] == ["frozen", "abdicated"]
    assert JobStarted("j", "backup", "a", "target", 512 * KIB, 64 * KIB) in events
    assert JobProgress("j", 64 * KIB, 64 * KIB, range_) in events
    kinds = {type(event).__name__ for event in events}
    assert {"ActionStep", "ReferenceChanged", "BitmapSettled", "TransactionOver"} <= kinds


async def test_bitmap_that_is_removed_is_recorded(tmp_path):
    async def remove(emulator):
        await emulator.execute("block-dirty-bitmap-disable", node="a", name="b")
        await emulator.execute("block-dirty-bitmap-remove", node="a", name="b")

    events = await recorded(tmp_path, remove)
    assert [one.state for one in events if isinstance(one, BitmapChanged)] == [
        "disabled",
        "removed",
    ]


async def test_request_of_the_guest_that_fails_is_recorded(tmp_path):
    async def write(emulator):
        def fail(_point, _facts):
            raise OSError(5, "Input/output error")

        emulator.layer.points.listen("request.write", fail)
        guest = emulator.layer.find_backend("guest-a")
        with pytest.raises(OSError, match="Input/output error"):
            await guest.pwrite(4096, b"x" * 512)

    events = await recorded(tmp_path, write)
    assert RequestFailed("a", "write", 4096, 512, "Input/output error") in events


def test_every_kind_comes_back_from_json():
    event = RestoreDiffers("disk0", "640 KiB at 8 MiB", 1 << 30, [[8 << 20, 640 << 10]])
    assert from_json(json.loads(json.dumps(as_json(event)))) == event
    assert "RestoreDiffers" in KINDS
    assert "JobEnded" in KINDS


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"trace": "Nonsense"}, "there is no kind of event 'Nonsense'"),
        ({"trace": ["x"]}, "there is no kind of event ['x']"),
        ({"trace": "ClientGone"}, "ClientGone: a member is missing"),
        (
            {"trace": "ClientGone", "client": "1"},
            "ClientGone: member 'client' is of the wrong type",
        ),
        ({"trace": "ClientGone", "client": True}, "ClientGone: member 'client' is of the wrong"),
        ({"trace": "ClientGone", "client": 1, "x": 2}, "ClientGone has no member 'x'"),
        ({"trace": "EventEmitted", "event": "A", "data": 0, "clients": [None]}, "'clients'"),
        (
            {"trace": "JobProgress", "job": "j", "current": 0, "total": 0, "ranges": [[1]]},
            "'ranges'",
        ),
    ],
)
def test_members_that_are_none_are_refused(members, reason):
    with pytest.raises(ValueError, match=r".") as caught:
        from_json(members)
    assert reason in str(caught.value)


# The file


def written(path: Path, *events, limit: int = LIMIT) -> list:
    writer = RecordWriter(str(path), limit)
    writer.begin(1000, "blkxact")
    for time, event in enumerate(events):
        writer.write(event, time)
    writer.close()
    return [entry.event for entry in read_record(path)]


def test_record_ends_at_its_limit_and_says_so(tmp_path):
    path = tmp_path / "r"
    events = written(path, *[ClientGone(number) for number in range(1000)], limit=8 << 10)
    assert path.stat().st_size <= 8 << 10
    assert events[-1] == RecordFull(8 << 10)
    assert events[1:-1] == [ClientGone(number) for number in range(len(events) - 2)]
    before = path.read_bytes()
    RecordWriter(str(path), 8 << 10).begin(2000, "blkxact")
    assert path.read_bytes() == before


def test_record_that_exists_is_continued(tmp_path):
    path = tmp_path / "r"
    written(path, ClientGone(1))
    with path.open("a") as file:
        file.write('{"time":5,"tra')  # killed there
    events = written(path, ClientGone(2))
    began = RecordBegan(1, 1000, "blkxact")
    assert events == [began, ClientGone(1), began, ClientGone(2)]


def test_last_line_may_be_incomplete(tmp_path):
    path = tmp_path / "r"
    written(path, ClientGone(1))
    text = path.read_bytes()
    for cut in range(1, 30):
        path.write_bytes(text[:-cut])
        assert [entry.event for entry in read_record(path)] == [RecordBegan(1, 1000, "blkxact")]


def test_times_never_run_backwards(tmp_path):
    path = tmp_path / "r"
    writer = RecordWriter(str(path), LIMIT)
    writer.begin(0, "blkxact")
    for time in (5, 3, 7):
        writer.write(ClientGone(1), time)
    writer.close()
    assert [entry.time for entry in read_record(path)] == [0, 5, 5, 7]


def test_full_disk_ends_the_record_and_nothing_else(caplog):
    writer = RecordWriter("/dev/full", LIMIT)
    writer.begin(0, "blkxact")
    writer.write(ClientGone(1), 0)
    assert "record '/dev/full' ends here: No space left on device" in caplog.text
    assert caplog.text.count("ends here") == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1: the record is empty"),
        ("hello\n", "line 1: this is not JSON"),
        ("[1]\n", "line 1: this is not an object"),
        (
            '{"time":0,"trace":"ClientGone","client":1}\n',
            "line 1: a record begins with RecordBegan",
        ),
        (
            '{"time":-1,"trace":"ClientGone","client":1}\n',
            "line 1: 'time' is not a number of micro",
        ),
        (
            '{"time":0,"trace":"RecordBegan","record":9,"began":0,"program":""}\n',
            "line 1: format 9",
        ),
        ("\x00\xff\n\n", "line 1: this is not JSON"),
        ("[" * 100_000 + "\n", "line 1: this is not JSON"),
    ],
)
def test_bad_record_is_refused_with_line_and_reason(tmp_path, text, reason):
    path = tmp_path / "r"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(RecordError, match=r".") as caught:
        list(read_record(path))
    assert str(caught.value).startswith(f"{path}: {reason}")


def test_broken_line_in_the_middle_is_refused(tmp_path):
    path = tmp_path / "r"
    written(path, ClientGone(1))
    with path.open("a") as file:
        file.write('{"time":5,\n{"time":6,"trace":"ClientGone","client":1}\n')
    with pytest.raises(RecordError, match=r"r: line 3: this is not JSON"):
        list(read_record(path))


def test_long_values_are_cut():
    assert shortened([1, 2]) == [1, 2]
    cut = shortened("x" * MAX_VALUE)
    assert cut["characters"] == MAX_VALUE + 2
    assert len(cut["begins"]) == MAX_VALUE


# Ranges


def test_ranges_are_bounded_whatever_the_size():
    grain = grain_of(64 * TIB)
    assert 64 * TIB // grain == MAX_GRAINS
    bitmap = DirtyBitmap(64 * TIB, 64 * KIB)
    bitmap.mark(0, 64 * TIB)
    assert dirty_ranges(bitmap, grain) == [[0, 64 * TIB]]


def test_ranges_of_grains_join_and_end_with_the_disk():
    assert ranges_of({3, 1, 2, 7}, 64 * KIB, 7 * 64 * KIB + 5) == [
        [64 * KIB, 192 * KIB],
        [7 * 64 * KIB, 5],
    ]


# Secrets


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("object-add", {"qom-type": "secret", "id": "s", "data": "swordfish"}),
        ("object-add", {"qom-type": "secret", "props": {"data": "swordfish"}}),
        ("human-monitor-command", {"command-line": "object_add secret,id=s,data=swordfish"}),
        ("set_password", {"protocol": "vnc", "password": "swordfish"}),
    ],
)
def test_secrets_are_not_recorded(command, arguments):
    shown = json.dumps(without_secrets(command, arguments))
    assert "swordfish" not in shown
    assert HIDDEN in shown


# What clients send to break it


async def test_values_that_json_has_not_are_texts_in_the_record(tmp_path):
    path = tmp_path / "r"
    events = written(path, CommandReceived(1, 1, "x", {"a": float("inf"), "b": -float("inf")}))
    assert events[1].arguments == {"a": "1e999", "b": "-1e999"}
    assert "1e999" in page_of(read_record(path), "r")


@pytest.mark.parametrize("command", ["object-add", "query-jobs"])
async def test_arguments_that_are_nested_deeply_disturb_nothing(command):
    deep = {}
    for _ in range(100_000):
        deep = {"a": deep}
    reported = []

    async def result():
        return {"fine": True}

    observer = Observer(reported.append, shortened)
    observer.connected("client", "x")
    assert await observer.executing("client", command, deep, result()) == {"fine": True}
    assert [type(event).__name__ for event in reported[1:]] == [
        "CommandReceived",
        "CommandAnswered",
    ]
    assert len(str(reported[1])) < 500
    while deep:  # not all at once, which would exhaust the stack
        deep = deep["a"]


async def test_bug_in_the_recorder_ends_the_record_and_not_the_job(tmp_path, caplog, monkeypatch):
    def fail(*_args):
        raise RuntimeError("a bug")

    monkeypatch.setattr("blkxact.record.recorder.grain_of", fail)
    events = await recorded(tmp_path, backup)
    assert isinstance(events[0], RecordBegan)
    assert "the record ends here: internal error at bitmap.freeze" in caplog.text


# A real daemon


class Served:
    """``blkxact serve --record`` with a client."""

    async def start(self, directory: Path, *words: str) -> None:
        path = directory / "qmp.sock"
        self.connected = asyncio.get_running_loop().create_future()
        server = await asyncio.start_unix_server(
            lambda reader, writer: self.connected.set_result((reader, writer)), path, limit=LIMIT
        )
        self.record = directory / "run.jsonl"
        self.process = subprocess.Popen(  # noqa: ASYNC220 - it starts at once
            [
                *(sys.executable, "-m", "blkxact", "serve", "--record", self.record),
                *("--qmp", f"unix:{path},server=off", *words),
            ]
        )
        async with asyncio.timeout(CLIENTS):
            self.reader, self.writer = await self.connected
            await self.reader.readline()
        server.close()

    async def ask(self, text: str) -> dict:
        self.writer.write(text.encode())
        async with asyncio.timeout(CLIENTS):
            while "event" in (answer := json.loads(await self.reader.readline())):
                pass
        return answer

    def end(self, number: signal.Signals) -> list:
        self.process.send_signal(number)
        self.process.wait(CLIENTS)
        self.writer.close()
        return [entry.event for entry in read_record(self.record)]


async def test_killed_daemon_leaves_a_record_of_all_that_was_answered(tmp_path):
    served = Served()
    await served.start(tmp_path)
    await served.ask('{"execute":"qmp_capabilities"}')
    await served.ask('{"execute":"nonsense"}')
    await served.ask('{"execute":"query-status"}')
    events = served.end(signal.SIGKILL)
    assert [str(event) for event in events if isinstance(event, CommandReceived)] == [
        "client 1: qmp_capabilities",
        "client 1: nonsense",
        "client 1: query-status",
    ]
    answers = [event for event in events if isinstance(event, CommandAnswered)]
    assert answers[1].error == "The command nonsense has not been found"
    assert answers[2].result["running"] is True


def test_lines_of_the_human_monitor_are_recorded(tmp_path):
    record = tmp_path / "r"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "blkxact", "system", "-record", record),
            *("-M", "none", "-display", "none", "-monitor", "stdio"),
        ],
        input="info version\nquit\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=CLIENTS,
    )
    assert (done.returncode, done.stderr) == (0, "")
    events = [entry.event for entry in read_record(record)]
    lines = [event.arguments for event in events if isinstance(event, CommandReceived)]
    assert lines == [{"command-line": "info version"}, {"command-line": "quit"}]


async def test_daemon_that_ends_in_order_records_that(tmp_path):
    served = Served()
    await served.start(tmp_path)
    await served.ask('{"execute":"qmp_capabilities"}')
    events = served.end(signal.SIGTERM)
    names = [event.event for event in events if isinstance(event, EventEmitted)]
    assert names == ["SHUTDOWN"]
    assert str(events[-1]) == "client 1 gone"
