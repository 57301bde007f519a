"""An emulator that somebody else starts: it is one like all others, with all faults."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blkxact.prove.case import run_case
from blkxact.prove.client import StartError
from blkxact.prove.results import Case, Result, Verdict
from blkxact.prove.scenario import load
from blkxact.prove.started import write_relay
from blkxact.runtime.release import RELEASES

EXAMPLES = Path(__file__).parents[2] / "examples/clients"
STARTER = Path(__file__).with_name("starter.py")
TIMEOUT_S = 60

NODE = (
    '{{"driver": "qcow2", "node-name": "{0}",'
    ' "file": {{"driver": "file", "filename": "{{dir}}/{0}.qcow2"}}}}'
)
WORDS = (
    "-nodefaults -display none"
    f" -blockdev '{NODE.format('n1')}' -device virtio-blk-pci,drive=n1,id=d1"
).replace("/n1.", "/vda.")
SCENARIO = """
[emulator]
start = '''{{python}} {starter} {start} {{dir}} {{emulator}} {words}'''
[[disk]]
name = "vda"
size = "8M"
[client]
full = "{{python}} {starter} {verb} {{dir}}"
incremental = "true"
restore = "false {{out}}"
cycle = ["full"]
"""


def scenario_of(call: str, words: str = WORDS, start: str = "start") -> str:
    return SCENARIO.format(starter=STARTER, start=start, verb=call, words=words)


@pytest.fixture
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="blkxact-") as path:  # a short one: it has sockets
        yield Path(path)


def run(scratch: Path, call: str, words: str = WORDS, *, start: str = "start") -> Result:
    """Run a case without faults whose first call does something to the emulator."""
    path = scratch / "s.toml"
    path.write_text(scenario_of(call, words, start))
    result = run_case(load(path), Case(), scratch)
    print(*result.notes)
    return result


@pytest.mark.qemu
@pytest.mark.parametrize("fault", ["monitor.reply/transaction/1/kill", "call.end/1/quit"])
def test_careful_client_is_honest_about_an_emulator_that_another_starts(scratch: Path, fault: str):
    text = (EXAMPLES / "careful.toml").read_text()
    nodes = "".join(
        f" -blockdev '{NODE.format(name)}' -device virtio-blk-pci,drive={name},id=d-{name}"
        for name in ("vda", "vdb")
    )
    start = f"{{python}} {STARTER} start {{dir}} {{emulator}} -nodefaults -display none{nodes}"
    path = scratch / "s.toml"
    path.write_text(f"[emulator]\nstart = '''{start}'''\n{text}")
    scenario = load(path, EXAMPLES / "careful.py")
    result = run_case(scenario, Case.parse(f"1:1/{fault}"), scratch)
    expected = Verdict.SOUND if "call.end" in fault else Verdict.HONEST
    assert result.verdict is expected, result
    assert [call.struck for call in result.calls if call.struck] == [(f"1/{fault}",)]


def test_tool_that_ends_and_starts_it_sees_an_orderly_end(scratch: Path):
    result = run(scratch, "end")
    assert result.verdict is Verdict.HONEST, result
    assert result.calls[0].printed == "it ended with 0"


def test_killing_what_stands_in_kills_the_emulator(scratch: Path):
    result = run(scratch, "kill")
    assert result.verdict is Verdict.HONEST, result
    assert (result.calls[0].status, result.calls[0].printed) == (1, "")


def test_stand_in_that_is_killed_at_once_is_forgotten(scratch: Path):
    result = run(scratch, "end", start="retry")
    assert result.verdict is Verdict.HONEST, result
    assert result.calls[0].printed == "it ended with 0"


def test_client_that_stays_connected_is_not_waited_for_and_ends_with_the_case(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
):
    """As a libvirtd that ``emulator.start`` has started."""
    monkeypatch.setattr("blkxact.prove.emulator.SETTLE_S", 1000)  # longer than an answer may take
    path = scratch / "s.toml"
    text = scenario_of("no", start="hold")
    path.write_text(text.replace('full = "', 'full = "true '))
    result = run_case(load(path), Case(), scratch)
    assert result.verdict is Verdict.LOSS, result  # its restore fails
    left = Path("/proc", (scratch / "left").read_text(), "exe")
    end = time.monotonic() + TIMEOUT_S
    while left.exists() and time.monotonic() < end:
        pass
    assert not left.exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (f"{WORDS} -foo", "qemu-system-x86_64: -foo: invalid option"),
        (f"{WORDS} -device virtio-blk-pci,drive=x", "can't find value 'x'"),
        (WORDS.replace("vda.qcow2", "vda.other"), "Could not open"),
        ("-nodefaults", "no device has the image"),
        (f"{WORDS} -daemonize", "without -daemonize and -pidfile"),
        (f"{WORDS} -monitor stdio", "without a monitor on standard input"),
    ],
)
def test_emulator_that_does_not_start_says_why_to_who_starts_it(
    scratch: Path, words: str, reason: str
):
    with pytest.raises(StartError, match=r"emulator\.start: it exits with 1: ") as caught:
        run(scratch, "kill", words)
    assert reason in str(caught.value)


def test_start_that_starts_nothing_is_refused(scratch: Path):
    path = scratch / "s.toml"
    text = scenario_of("kill")
    path.write_text(text.replace("start = '''", "start = '''true "))
    with pytest.raises(StartError, match="it has not started the emulator"):
        run_case(load(path), Case(), scratch)


def run_relay(scratch: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    program = write_relay(scratch, RELEASES["10.0"])
    return subprocess.run(
        [program, "--version"],
        env={"PATH": os.defpath, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )


def test_without_a_case_it_is_the_ordinary_program(scratch: Path):
    done = run_relay(scratch)
    assert done.stdout.startswith("QEMU emulator version 10.0.")
    assert done.returncode == 0


def test_of_a_case_that_is_over_it_fails(scratch: Path):
    done = run_relay(scratch, BLKXACT_PROVE="/nowhere/starts")
    assert done.stderr == "BLKXACT_PROVE=/nowhere/starts: No such file or directory\n"
    assert done.returncode == 1


def libvirtd_can_run() -> bool:
    """As root it needs a user namespace, in which it is not root."""
    words = ["unshare", "--user", "true"]
    return os.geteuid() != 0 or subprocess.run(words, check=False).returncode == 0


@pytest.mark.libvirt
@pytest.mark.skipif(not libvirtd_can_run(), reason="there are no user namespaces here")
def test_virtnbdbackup_is_honest_about_a_monitor_that_libvirt_loses(scratch: Path):
    """libvirt ends the domain when the monitor's connection is cut."""
    text = (EXAMPLES / "virtnbdbackup.toml").read_text()
    path = scratch / "s.toml"
    path.write_text(text.replace('[[disk]]\nname = "vdb"\nsize = "8M"\n', ""))  # one is enough
    scenario = load(path, EXAMPLES / "virtnbdbackup.py")
    assert scenario.names == ("vda",)
    result = run_case(scenario, Case.parse("1:1/monitor.received/transaction/1/cut"), scratch)
    assert result.verdict is Verdict.HONEST, result
    assert [call.ended for call in result.calls] == ["failed", "failed", "ok"]
