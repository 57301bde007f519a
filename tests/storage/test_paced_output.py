"""Output that waits for nobody: kept in order, bounded, written as the reader takes it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
from collections.abc import Iterator

import pytest

from blkxact.storage.paced_output import PacedOutput
from blkxact.testing.waiting import until, until_idle

CAPACITY = 4096
"""Bytes of the pipe: the least that the system gives."""
PATIENCE_S = 20


class Pipe:
    """A pipe that is full."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, CAPACITY)
        os.write(self.write_end, b"." * CAPACITY)

    def read(self, size: int = 1 << 20) -> bytes:
        return os.read(self.read_end, size)

    def close(self) -> None:
        for end in (self.read_end, self.write_end):
            os.close(end)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def attached(pipe: Pipe, **how) -> PacedOutput:
    output = PacedOutput(pipe.write_end, **how)
    output.attach(asyncio.get_running_loop())
    return output


async def read_all(pipe: Pipe, size: int) -> bytes:
    """Return so many bytes, read as they come."""
    data = b""
    while len(data) < size:
        data += await asyncio.to_thread(pipe.read)
    return data


async def test_what_a_full_pipe_does_not_take_comes_in_order_when_it_is_read(pipe: Pipe) -> None:
    output = attached(pipe)
    lines = [f"{number}\n".encode() * 200 for number in range(50)]
    for line in lines:
        output.write(line)
    assert output.size == sum(map(len, lines))
    await until_idle()
    expected = b"." * CAPACITY + b"".join(lines)
    assert await read_all(pipe, len(expected)) == expected
    await until(lambda: not output.size)
    output.write(b"at once")
    assert not output.size
    assert pipe.read() == b"at once"
    output.detach(0)


async def test_more_than_the_limit_is_dropped_whole_and_counted(pipe: Pipe) -> None:
    output = attached(pipe, limit=100, notice=lambda count: f"{count} lost\n".encode())
    for number in range(20):
        output.write(b"%09d\n" % number)
    assert output.size == 100
    expected = b"." * CAPACITY + b"".join(b"%09d\n" % number for number in range(10))
    expected += b"10 lost\n"
    assert await read_all(pipe, len(expected)) == expected
    await until(lambda: not output.size)
    output.write(b"again\n")
    assert pipe.read() == b"again\n"
    output.detach(0)


async def test_threads_may_write(pipe: Pipe) -> None:
    output = attached(pipe)
    threads = [threading.Thread(target=output.write, args=(b"x" * 100,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert await read_all(pipe, CAPACITY + 800) == b"." * CAPACITY + b"x" * 800
    output.detach(0)


async def test_reader_that_has_gone_is_no_error(pipe: Pipe) -> None:
    output = attached(pipe)
    output.write(b"kept")
    os.close(pipe.read_end)
    await until(lambda: not output.size)
    output.write(b"nobody hears")
    assert not output.size
    output.detach(0)
    pipe.read_end = os.open(os.devnull, os.O_RDONLY)


async def test_end_gives_up_what_nobody_reads(pipe: Pipe) -> None:
    output = attached(pipe)
    output.write(b"kept")
    output.detach(0)
    assert not output.size
    assert pipe.read() == b"." * CAPACITY


async def test_end_waits_for_a_reader_that_reads(pipe: Pipe) -> None:
    output = attached(pipe)
    output.write(b"y" * 3 * CAPACITY)
    data = bytearray()

    def read() -> None:
        while len(data) < 4 * CAPACITY:
            data.extend(pipe.read())

    thread = threading.Thread(target=read)
    thread.start()
    output.detach(PATIENCE_S)
    thread.join()
    assert data == b"." * CAPACITY + b"y" * 3 * CAPACITY


def test_without_a_loop_the_writer_waits(pipe: Pipe) -> None:
    output = PacedOutput(pipe.write_end)
    done = threading.Event()

    def write() -> None:
        output.write(b"z" * 2 * CAPACITY)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    data = b""
    while len(data) < 3 * CAPACITY:
        data += pipe.read()
    thread.join()
    assert done.is_set()
    assert data == b"." * CAPACITY + b"z" * 2 * CAPACITY
