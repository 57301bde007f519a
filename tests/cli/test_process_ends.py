"""The first and last moments of a process: signals become calls, and nothing is left undone."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading

import pytest
from cli_runs import TIMEOUT
from programs import run

from blkxact.runtime.signals import handled
from blkxact.runtime.start import leave

LEAVE = """
import sys, threading
from blkxact.runtime.start import leave
{before}
print("written")
sys.stdout.flush()
leave(3)
print("returned")
"""


class Heard:
    """The signals that were handled; ``all`` is set when so many have come."""

    def __init__(self, count):
        self.numbers = []
        self.count = count
        self.all = asyncio.Event()

    def __call__(self, number):
        self.numbers.append(number)
        if len(self.numbers) == self.count:
            self.all.set()


def test_signals_are_calls_on_the_loop_and_then_what_they_were_before():
    before = signal.getsignal(signal.SIGHUP), signal.set_wakeup_fd(-1)
    heard = Heard(2)

    async def raise_twice():
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        await asyncio.wait_for(heard.all.wait(), TIMEOUT)

    with asyncio.Runner() as runner, handled(runner.get_loop(), (signal.SIGHUP,), heard):
        runner.run(raise_twice())
    assert heard.numbers == [signal.SIGHUP] * 2
    assert (signal.getsignal(signal.SIGHUP), signal.set_wakeup_fd(-1)) == before


def test_signal_before_the_loop_runs_is_not_missed():
    heard = Heard(1)
    with asyncio.Runner() as runner, handled(runner.get_loop(), (signal.SIGHUP,), heard):
        signal.raise_signal(signal.SIGHUP)
        runner.run(asyncio.wait_for(heard.all.wait(), TIMEOUT))
    assert heard.numbers == [signal.SIGHUP]


def test_leave_ends_the_process_with_its_status():
    done = run(sys.executable, "-c", LEAVE.format(before=""))
    assert (done.returncode, done.stdout) == (3, "written\n")


@pytest.mark.parametrize("who", ["sys.setprofile", "sys.settrace"])
def test_leave_leaves_the_last_word_to_profilers_and_debuggers(who):
    done = run(sys.executable, "-c", LEAVE.format(before=f"{who}(lambda *_: None)"))
    assert (done.returncode, done.stdout) == (0, "written\nreturned\n")


def test_leave_does_not_end_a_thread_that_is_to_be_waited_for(monkeypatch):
    left = []
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(sys, "gettrace", lambda: None)
    may_end = threading.Event()
    thread = threading.Thread(target=may_end.wait)
    thread.start()
    try:
        leave(3)
        assert left == []
    finally:
        may_end.set()
        thread.join()
