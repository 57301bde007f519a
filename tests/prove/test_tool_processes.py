"""Whether a tool does anything: its threads and all processes below it count."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from blkxact.prove.client import processor_time

LIMIT_S = 20


@contextmanager
def shell(script: str) -> Iterator[int]:
    with subprocess.Popen(["sh", "-c", script], process_group=0) as process:
        try:
            yield process.pid
        finally:
            subprocess.run(["kill", "-9", "--", f"-{process.pid}"], check=True)


def wait_for(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        if holds():
            return True
    return False


@pytest.mark.parametrize("script", ["while :; do :; done", "while :; do :; done & wait"])
def test_process_or_its_child_that_works_is_seen(script: str):
    with shell(script) as pid:
        assert wait_for(lambda: processor_time(pid) == -1)


def test_processes_that_sleep_use_no_time():
    with shell("sleep 1000 & wait") as pid:
        last = [-1, 0]

        def is_the_same_again() -> bool:
            last[:] = [last[1], processor_time(pid)]
            return last[0] == last[1] >= 0

        assert wait_for(is_the_same_again)


def test_process_that_has_ended_uses_no_time():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert processor_time(process.pid) == 0


def test_processes_that_come_and_go_are_no_error():
    with shell("while :; do true & done") as pid:
        counted = [processor_time(pid) for _ in range(200)]
    assert min(counted) >= -1
