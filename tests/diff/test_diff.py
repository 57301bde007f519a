"""``blkxact diff``: its parts, and short runs beside the real QEMU."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from blkxact.diff.differences import compare
from blkxact.diff.generate import RandomScript
from blkxact.diff.mask import Mask
from blkxact.diff.observe import GRAPH, QUERIES, in_context, said_in, with_drivers
from blkxact.diff.script import Script, command, name_of
from blkxact.diff.shrink import shrink
from blkxact.diff.world import World, look_around

SEED, RUNS = 2, 3
"""Of the scripts in this file; the sweep over many seeds is made by hand."""


def lines_of(seed: int, world: World, count: int = 50) -> list[str | None]:
    script = RandomScript(seed, count)
    return [script.next_line(world) for _ in range(count)]


def test_same_seed_gives_the_same_script_and_another_seed_another() -> None:
    assert lines_of(7, World()) == lines_of(7, World())
    assert lines_of(7, World()) != lines_of(8, World())


def test_most_random_commands_name_what_is_there() -> None:
    world = World(nodes={"t": ""}, writable={"t"}, bitmaps={"t": ["b2"]}, jobs={"j1": "pending"})
    lines = [str(line) for line in lines_of(1, world, 1000)]
    bitmaps = [line for line in lines if '"block-dirty-bitmap-clear"' in line]
    assert sum('"node": "t", "name": "b2"' in line for line in bitmaps) > len(bitmaps) / 2
    finalized = [line for line in lines if 'job-finalize"' in line]
    assert sum('"j1"' in line for line in finalized) > len(finalized) / 2


def test_random_commands_name_no_node_whose_name_was_made_up() -> None:
    world = World(nodes={"t": "#block1"}, bitmaps={"#block1": ["b1"]})
    assert not any("#" in str(line) for line in lines_of(1, world, 1000))


def test_random_commands_end_a_job_that_may_hold_up_the_guest() -> None:
    world = World(nodes={"t": ""}, jobs={"j1": "pending"}, holding=["j1"])
    lines = [str(line) for line in lines_of(1, world, 100)[20:]]
    ending = [line for line in lines if '"arguments": {"id": "j1"}' in line]
    assert len(ending) > len(lines) / 2
    assert {"job-finalize", "job-cancel"} <= {name_of(line) for line in ending}


def test_random_script_has_that_many_lines_besides_its_setup() -> None:
    script = RandomScript(1, 5)
    lines = list(iter(lambda: script.next_line(World()), None))
    assert len(lines) == 16


def test_script_survives_being_written_and_read() -> None:
    script = Script(("create -f raw a 1M",), tuple(map(str, lines_of(1, World(), 30))))
    assert Script.parse(f"# a comment\n\n{script}") == script


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (command("block_resize", node_name="a", size=1), "block_resize"),
        ("[]", "(malformed)"),
        ("{", "(malformed)"),
        ('{"execute": 1}', "1"),
    ],
)
def test_name_of_a_line(line: str, name: str) -> None:
    assert name_of(line) == name


async def test_shrink_keeps_only_what_is_needed() -> None:
    tried: list[Sequence[str]] = []

    async def needs_b_and_y(steps: Sequence[str]) -> bool:
        tried.append(steps)
        return "b" in steps and "y" in steps

    assert await shrink(list("abcdefghxyz"), needs_b_and_y) == ["b", "y"]
    assert len(tried) < 40


async def test_shrink_of_what_fails_without_any_step_is_empty() -> None:
    async def always(_steps: Sequence[str]) -> bool:
        return True

    assert await shrink(["a", "b", "c"], always) == []


def test_mask_numbers_generated_names_and_hides_times_and_directories() -> None:
    mask = Mask("/tmp/x")
    seen = mask({"timestamp": 5, "file": "/tmp/x/a.qcow2", "node-name": "#block927"})
    assert seen == {"timestamp": "masked", "file": "DIR/a.qcow2", "node-name": "#block(0)"}
    assert mask(["#block113", "#block927"]) == ["#block(1)", "#block(0)"]


def test_names_in_a_line_get_their_drivers_and_the_line_the_jobs_beside_it() -> None:
    nodes = [{"node-name": "f", "drv": "compress"}, {"node-name": "base", "drv": "qcow2"}]
    drives = [{"qdev": "/machine/peripheral/d0", "inserted": nodes[0]}, {"qdev": "cd"}]
    seen = {
        "query-named-block-nodes": json.dumps({"return": nodes}).encode(),
        "query-block": json.dumps({"return": drives}).encode(),
        "query-jobs": b'{"return": []}',
    }
    line = (
        '{"execute": "x", "arguments": {"device": "d0", "base": "base", "y": "\\"f\\"", "z": "f"}}'
    )
    expected = line.replace('"d0"', '"d0(compress)"').replace(': "base"', ': "base(qcow2)"')
    expected = expected.replace('"f"}', '"f(compress)"}')
    assert in_context(line, seen) == expected
    jobs = [
        {"id": "j1", "type": "mirror", "status": "ready"},
        {"id": "slow0", "type": "backup", "status": "running"},
    ]
    seen["query-jobs"] = json.dumps({"return": jobs}).encode()
    assert in_context(line, seen) == f"{expected} beside j1(mirror, ready), slow0(backup, running)"


def test_query_that_fails_is_looked_at_as_an_error(tmp_path: Path) -> None:
    """QEMU's ``query-named-block-nodes`` fails if an image below cannot be described any more."""
    error = b'{"error": {"class": "GenericError", "desc": "gone"}}'
    graph = b'{"return": {"nodes": [], "edges": []}}'
    seen = {query: graph if query == GRAPH else error for query in QUERIES}
    assert look_around(seen, tmp_path) == World(files=frozenset())
    assert in_context('"d0"', seen) == '"d0"'
    assert with_drivers([{"node-name": "a"}], said_in(error)) == [{"node-name": "a"}]


def test_nodes_are_compared_by_their_names() -> None:
    def node(name: str, size: int) -> dict[str, object]:
        return {"node-name": name, "drv": "raw", "size": size}

    found = compare(0, "nodes", [node("a", 1), node("b", 1)], [node("b", 2), node("c", 1)])
    assert [(one.where, one.ours, one.theirs) for one in found] == [
        ("nodes /a(raw)", node("a", 1), "(nothing)"),
        ("nodes /b(raw)/size", 1, 2),
        ("nodes /c(raw)", "(nothing)", node("c", 1)),
    ]
    [order] = compare(0, "nodes", [node("a", 1), node("b", 1)], [node("b", 1), node("a", 1)])
    assert order.where == "nodes /order"


SCRIPTS = Path(__file__).parent / "scripts"
DIFF = (sys.executable, "-m", "blkxact", "diff")


def diff(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DIFF, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.qemu
def test_random_scripts_show_no_difference_from_qemu(tmp_path: Path) -> None:
    done = diff("--seed", SEED, "--runs", RUNS, "--save", tmp_path, "--no-shrink")
    assert done.returncode == 0, done.stdout + done.stderr


def test_how_far_a_mirror_is_depends_on_time() -> None:
    seen = Mask("/x")({"type": "mirror", "offset": 1, "speed": 0})
    assert seen == {"type": "mirror", "offset": "masked", "speed": 0}


@pytest.mark.qemu
def test_what_was_different_once_is_not_any_more(tmp_path: Path) -> None:
    """Each script is the shortest that showed a difference; its first line says which."""
    done = diff("--save", tmp_path, "--no-shrink", *sorted(SCRIPTS.glob("*.qmp")))
    assert done.returncode == 0, done.stdout + done.stderr


QEMU10 = os.environ.get("BLKXACT_QEMU10", "")


@pytest.mark.skipif(not QEMU10, reason="BLKXACT_QEMU10 does not name the folder of QEMU 10.0")
def test_what_was_different_from_qemu_10_is_not_any_more(tmp_path: Path) -> None:
    ours = f"{sys.executable} -m blkxact system --emulate 10.0"
    theirs = f"{QEMU10}/bin/qemu-system-x86_64"
    scripts = sorted((SCRIPTS.parent / "scripts-10.0").glob("*.qmp"))
    done = diff("--program", ours, "--against", theirs, "--save", tmp_path, "--no-shrink", *scripts)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.qemu
def test_script_with_a_restart_finds_the_persistent_bitmaps_again(tmp_path: Path) -> None:
    file = {"driver": "file", "filename": "a.qcow2"}
    add = command("blockdev-add", driver="qcow2", node_name="a", file=file)
    bitmap = command("block-dirty-bitmap-add", node="a", name="b", persistent=True)
    script = tmp_path / "script"
    lines = ["image create -q -f qcow2 a.qcow2 1M", add, bitmap, "restart", add]
    script.write_text("\n".join(lines))
    done = diff("--save", tmp_path, "--no-shrink", script)
    assert (done.returncode, done.stdout) == (0, "4 commands, 0 scripts with a difference\n")


@pytest.mark.qemu
def test_script_in_which_qemu_crashes_is_counted_and_no_difference(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(command("blockdev-add", driver="null-co", node_name="n", size=-1))
    done = diff("--save", tmp_path, script)
    assert (done.returncode, done.stdout) == (
        0,
        "1 commands, 0 scripts with a difference; QEMU crashed in 1\n",
    )


@pytest.mark.qemu
def test_difference_is_found_shortened_and_shown_again(tmp_path: Path) -> None:
    """The other side is told to be of another name, so that ``query-name`` differs."""
    other = f"{shutil.which('qemu-system-x86_64')} -name other"
    script = tmp_path / "script"
    lines = [command("query-block"), command("query-name"), command("query-jobs")]
    script.write_text("\n".join(lines))
    saved = tmp_path / "a folder" / "that is made"
    done = diff("--against", other, "--save", saved, script)
    assert done.returncode == 1, done.stdout + done.stderr
    shorter = saved / "script-shorter.qmp"
    assert shorter.read_text() == f"{lines[1]}\n"
    assert "query-name /0/return/name" in done.stdout
    assert diff("--against", other, "--save", tmp_path, shorter).returncode == 1


def test_program_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    done = diff("--against", "/bin/false", "--runs", 1, "--save", tmp_path, "--no-shrink")
    assert done.returncode == 1
    assert done.stderr == "blkxact: the program does not start: 1\n"


WAIT_S = 20


def working_in(directory: Path) -> list[int]:
    """Return the processes that work somewhere below a directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            place = str((entry / "cwd").readlink())
        except OSError:
            continue
        if place.startswith(f"{directory}/"):
            found.append(int(entry.name))
    return found


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 128 + signal.SIGINT),
        (signal.SIGTERM, 128 + signal.SIGTERM),
        (signal.SIGHUP, 128 + signal.SIGHUP),
    ],
)
def test_signal_ends_both_programs_as_well(tmp_path: Path, number: int, status: int) -> None:
    """The programs are shells that start another process, as a wrapper around QEMU may do."""
    wrapper = "sh -c 'sleep 1000; true'"
    with subprocess.Popen(
        [*DIFF, "--program", wrapper, "--against", wrapper, "--save", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        until(lambda: len(working_in(tmp_path)) == 4)
        process.send_signal(number)
        assert process.wait(WAIT_S) == status
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert working_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_programs_are_killed_with_the_comparison(tmp_path: Path) -> None:
    program = "sh -c 'exec sleep 1000'"
    with subprocess.Popen(
        [*DIFF, "--program", program, "--against", program],
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        until(lambda: len(working_in(tmp_path)) == 2)
        process.kill()
    until(lambda: working_in(tmp_path) == [])
