"""Addresses mean the same in the next run, and faults are written as text."""

from __future__ import annotations

import pytest

from blkxact.prove.faults import (
    ACTIONS,
    CALL_END,
    WHAT,
    Fault,
    FaultError,
    Passing,
    Places,
    parse_fault,
)
from blkxact.prove.order import in_order
from blkxact.prove.results import Case
from blkxact.prove.wording import describe
from blkxact.runtime.points import POINTS


def test_table_names_points_and_actions_that_exist():
    assert set(ACTIONS) - {CALL_END} <= POINTS.keys()
    assert {action for actions in ACTIONS.values() for action in actions} == set(WHAT)


@pytest.mark.parametrize(
    ("point", "facts", "address"),
    [
        ("monitor.reply", {"monitor": "unix:/x", "command": "transaction"}, "/transaction"),
        ("storage.pwrite", {"path": "/d/vda.qcow2", "offset": 1, "length": 2}, "/vda"),
        ("storage.pwrite", {"path": "/d/store/x-17.img", "offset": 1, "length": 2}, "/file-1"),
        ("job.step", {"job": "backup of vda/2026"}, "/backup_of_vda_@"),
        ("bitmap.freeze", {"node": "vda", "bitmap": "b+17"}, "/vda/b_@"),
        ("job.step", {"job": "x-2f1b9a3c-0d4e-4f5a-8b6c-7d8e9f0a1b2c"}, "/x-@"),
    ],
)
def test_address_has_no_number_path_or_character_of_a_shell(point, facts, address):
    assert Places("/d", ["vda", "vdb"]).address(point, facts) == point + address


def test_files_of_the_tool_are_numbered_in_each_call():
    places = Places("/d", ["vda"])
    facts = [{"path": f"/d/store/{name}"} for name in "aba"]
    assert [places.address("storage.open", each)[-1] for each in facts] == ["1", "2", "1"]
    places.begin_call()
    assert places.address("storage.open", facts[1]).endswith("file-1")


def test_node_that_is_a_disk_has_its_name():
    places = Places("/d", ["vda"])
    places.rename("libvirt-2-format", "vda")
    facts = {"node": "libvirt-2-format", "bitmap": "b"}
    assert places.address("bitmap.freeze", facts) == "bitmap.freeze/vda/b"
    assert places.address("bitmap.freeze", facts | {"node": "libvirt-3-format"}).count("@") == 1


def test_every_fault_is_read_from_its_text():
    for point, actions in ACTIONS.items():
        for action in actions:
            fault = Fault(Passing(2, f"{point}/x_y.z/b", 3), action)
            assert parse_fault(str(fault)) == fault
            assert describe(fault)
    case = Case((parse_fault("1/call.end/1/kill"), parse_fault("2/storage.open/file-1/1/EIO")), 9)
    assert Case.parse(str(case)) == case


@pytest.mark.parametrize(
    "text", ["", "1/x", "1/job.step/a/1/cut", "x/job.step/a/1/kill", "1/no.point/a/1/kill"]
)
def test_text_that_is_no_fault_is_refused(text: str):
    with pytest.raises(FaultError, match="'"):
        parse_fault(text)


@pytest.mark.parametrize("text", ["", "1", "a:1/call.end/1/kill", "1:nonsense"])
def test_text_that_is_no_case_is_refused(text: str):
    with pytest.raises(FaultError, match="'"):
        Case.parse(text)


def test_first_and_last_passings_are_tried_first():
    passings = [Passing(1, "transaction.settled", nth) for nth in (1, 2, 3, 4)]
    assert [fault.passing.nth for fault in in_order(passings)] == [1, 4, 2, 3]


def test_one_of_each_kind_comes_before_a_second_one():
    passings = [Passing(call, f"storage.pread/file-{n}", 1) for call in (1, 2) for n in (1, 2)]
    faults = in_order(passings)
    assert [fault.action for fault in faults[:2]] == ["EIO", "EIO+"]
    assert {fault.passing.call for fault in faults[:2]} == {2}
    assert len(set(faults)) == len(faults) == 8


def test_order_does_not_depend_on_which_job_was_faster():
    passings = [Passing(2, f"job.step/{job}", nth) for job in "ab" for nth in (1, 2, 3)]
    assert in_order(passings) == in_order(sorted(passings, key=lambda each: each.nth))


def test_reply_is_late_only_where_jobs_are_started():
    actions = {
        command: {f.action for f in in_order([Passing(1, f"monitor.reply/{command}", 1)])}
        for command in ("transaction", "query-jobs")
    }
    assert actions["transaction"] - actions["query-jobs"] == {"late"}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("2/monitor.event/STOP/1/cut", "in call 2, before the event `STOP` is sent, {}"),
        (
            "1/storage.pwrite/file-2/3/EIO",
            "in call 1, when the 2nd file of the tool is written to, the 3rd time, {}",
        ),
        (
            "2/transaction.prepare/blockdev-backup_vda_backup-@/11/refuse",
            "in call 2, before `blockdev-backup vda backup-@` is prepared, the 11th time, {}",
        ),
        ("2/monitor.reply/transaction/1/late", "in call 2, the reply to `transaction` {}"),
        ("2/monitor.event/STOP/2/late", "in call 2, the event `STOP` (the 2nd one) {}"),
        ("3/call.end/1/quit", "when call 3 has ended, {}"),
    ],
)
def test_fault_is_described_in_words(fault: str, words: str):
    parsed = parse_fault(fault)
    assert describe(parsed) == words.format(WHAT[parsed.action])
