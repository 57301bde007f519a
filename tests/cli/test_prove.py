"""``blkxact prove`` as a person sees it, with tools that are a line of a shell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from blkxact.cli.main import main

SCENARIO = """\
[[disk]]
name = "vda"
size = "1M"
format = "raw"
[client]
full = "{full}"
incremental = "{full}"
restore = "cp {{store}}/b {{out}}"
cycle = ["full", "incremental"]
"""
COPY = "cp {dir}/vda.raw {store}/b && sync {store}/b"
CASES = 8
"""Nothing but the ends of two calls, as the tool talks to nobody."""
MARK = "86397"
"""Seconds that a tool sleeps: its processes are found by that."""


@pytest.fixture(autouse=True)
def tmpdir(image_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the cases' directories be made where the test can see them."""
    path = image_dir / "t"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return path


def scenario(directory: Path, full: str) -> Path:
    path = directory / "s.toml"
    path.write_text(SCENARIO.format(full=f"sh -c '{full}'"))
    return path


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["prove", *words]) == 1
    return capsys.readouterr().err


def test_scenario_with_a_mistake_is_reported_in_one_line(image_dir: Path, capsys):
    path = image_dir / "s.toml"
    path.write_text("[client]\n")
    assert complaint(capsys, str(path)) == f"blkxact: {path}: disk: it is missing\n"
    assert "No such file" in complaint(capsys, str(image_dir / "other"))


def test_tool_that_cannot_be_started_is_reported_in_one_line(image_dir: Path, capsys, tmpdir: Path):
    path = scenario(image_dir, COPY)
    path.write_text(path.read_text().replace("sh -c", "no-such-tool"))
    error = complaint(capsys, str(path))
    assert error == "blkxact: no-such-tool: No such file or directory\n"
    assert list(tmpdir.iterdir()) == []


def test_tool_that_fails_without_faults_is_reported(image_dir: Path, capsys):
    error = complaint(capsys, str(scenario(image_dir, "echo it is broken >&2; exit 3")))
    assert error == "blkxact: without any fault call 1 (full) failed: it is broken\n"


def test_tool_that_restores_nonsense_without_faults_is_reported(image_dir: Path, capsys):
    error = complaint(capsys, str(scenario(image_dir, "truncate -s 1M {store}/b")))
    assert "call 1 (full) ok: vda: " in error
    assert "at the first wrong byte, " in error


@pytest.mark.parametrize("text", ["nonsense", "1:2/job.step/a/1/cut"])
def test_case_that_is_none_is_refused(image_dir: Path, capsys, text: str):
    error = complaint(capsys, str(scenario(image_dir, COPY)), "--replay", text)
    assert error.startswith("blkxact: '")


def test_sound_tool_passes_and_its_verdicts_are_kept(image_dir: Path, capsys, tmpdir: Path):
    path, store = scenario(image_dir, COPY), image_dir / "store"
    json_file, junit = image_dir / "out.json", image_dir / "out.xml"
    words = ["prove", str(path), "--workers", "2", "--store", str(store)]
    words += ["--json", str(json_file), "--junit", str(junit)]
    assert main(words) == 0
    assert f"{CASES} cases in" in capsys.readouterr().out
    found = json.loads(json_file.read_text())
    assert (found["cases"], found["verdicts"], found["findings"]) == (CASES, {"sound": CASES}, [])
    suite = ET.fromstring(junit.read_text())
    assert (suite.get("tests"), suite.get("failures"), len(suite)) == (str(CASES), "0", CASES)
    assert main(words) == 0
    assert f"{CASES} verdicts were known" in capsys.readouterr().out
    assert list(tmpdir.iterdir()) == []


def test_tool_that_forgets_a_restart_is_found(image_dir: Path, capsys):
    """It believes that nothing was written if it has never seen this emulator's socket."""
    forgets = (
        "i={store}/$(date -r {qmp} +%s%N); [ -e {store}/b ] && [ ! -e $i ] && exit 0;"
        f" touch $i; {COPY}"
    )
    path, junit = scenario(image_dir, forgets), image_dir / "out.xml"
    assert main(["prove", str(path), "--workers", "1", "--junit", str(junit)]) == 1
    out = capsys.readouterr().out
    assert "LOSS: " in out
    assert "again: blkxact prove" in out
    case = out.partition("--replay '")[2].partition("'")[0]
    assert main(["prove", str(path), "--replay", case]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith(f"{case}: LOSS")
    assert "call 2, incremental: ok" in shown
    assert ET.fromstring(junit.read_text()).find(".//failure") is not None


def test_list_shows_the_cases_and_budget_limits_them(image_dir: Path, capsys):
    path = scenario(image_dir, COPY)
    assert main(["prove", str(path), "--list", "--seed", "3"]) == 0
    cases = capsys.readouterr().out.split()
    assert len(cases) == CASES
    assert cases[0] == "3:2/call.end/1/kill"
    assert main(["prove", str(path), "--budget", "2", "--workers", "1"]) == 0
    assert "2 cases in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_interrupt_leaves_no_process_and_no_directory(
    image_dir: Path, tmpdir: Path, number: signal.Signals, status: int
):
    slow = image_dir / "slow"
    path = scenario(image_dir, f"[ -e {slow} ] && sleep {MARK}; {COPY}")
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "blkxact", "prove", str(path), "--workers", "2"],
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as sweep:
        assert "8 cases" in sweep.stdout.readline()
        slow.touch()
        while not sleepers():
            assert sweep.poll() is None
            os.sched_yield()
        sweep.send_signal(number)
        assert sweep.wait(20) == status
    assert sleepers() == []
    assert list(tmpdir.iterdir()) == []


def sleepers() -> list[str]:
    """Return the processes of the tool that sleeps."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().split(b"\0")[:2] == [b"sleep", MARK.encode()]:
                found.append(path.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("--time=9m30s", "'9m30s' is not a time such as 90s, 10m or 2h"),
        ("--time=-5", "'-5' is not a time such as 90s, 10m or 2h"),
        ("--time=--", "'--' is not a time such as 90s, 10m or 2h"),
        ("--time=nan", "'nan' is not a time such as 90s, 10m or 2h"),
        ("--budget=0", "'0' is not a number from 1 on"),
        ("--workers=two", "'two' is not a number from 1 on"),
    ],
)
def test_number_with_a_mistake_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], word: str, reason: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["prove", "nope.toml", word])
    assert ended.value.code
    option = word.partition("=")[0]
    assert capsys.readouterr().err.startswith(f"blkxact: argument {option}: {reason}")


@pytest.mark.parametrize("words", [(), ("--replay", "1:2/call.end/1/kill")])
def test_page_of_a_finding_shows_the_fault_and_what_restores_wrongly(
    image_dir: Path, tmpdir: Path, words: tuple[str, ...]
):
    forgets = f"[ -e {{store}}/b ] || ( {COPY} )"
    path, pages = scenario(image_dir, forgets), image_dir / "pages"
    path.write_text(path.read_text().replace('cycle = ["full", "incremental"]', 'cycle = ["full"]'))
    words = tuple(word.replace("1:2/", "1:1/") for word in words)
    assert main(["prove", str(path), "--workers", "1", "--html", str(pages), *words]) == 1
    [page] = pages.iterdir()
    assert page.name.startswith("1-LOSS")
    text = page.read_text()
    assert "1:1/call.end/1/kill: LOSS" in text
    assert '"FaultStruck"' in text
    assert '"RestoreDiffers"' in text
    assert text.count('"RecordBegan"') >= 2, "both emulators are in it"
    assert list(tmpdir.iterdir()) == []
