"""quorum: several copies of one disk; a read returns what enough of them agree on.

Invariants:

* A write goes to all children. It succeeds if at least ``vote-threshold`` of them succeed;
  otherwise it fails with the error that most of the failed children have.
* A read with the pattern ``quorum`` returns the contents that most children have, if they are at
  least ``vote-threshold``; with ``fifo`` it returns what the first child returns that can be read.
* Each child that fails or disagrees is reported (QUORUM_REPORT_BAD), and so is each request that
  has no quorum (QUORUM_FAILURE).
* In blkverify mode there are two children, and a difference ends the process with status 1.

QEMU's counterpart: ``block/quorum.c``; ``qapi/block-core.json`` (BlockdevOptionsQuorum).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sys
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from blkxact.block.driver_api import BlockDriver
from blkxact.block.open_context import OpenContext
from blkxact.block.types import SECTOR, ChildRole, Extent, Permission, Status, WriteFlags
from blkxact.enums import QuorumOpType, QuorumReadPattern
from blkxact.errors import QmpError, os_error, strerror
from blkxact.storage.api import Buffer, Payload, payload_bytes

from .quorum_vote import Votes, common_extents, first_difference

if TYPE_CHECKING:
    from blkxact.block.child import Child
    from blkxact.block.node import BlockNode
    from blkxact.qapi.blockdev import BlockdevOptionsQuorum

T = TypeVar("T")

CHILDREN: Final = "children"
BLKVERIFY_CHILDREN: Final = 2

_SHARED: Final = Permission.CONSISTENT_READ | Permission.WRITE_UNCHANGED

_log = logging.getLogger(__name__)


class QuorumDriver(BlockDriver):
    """The driver ``quorum`` over ``children.0``, ``children.1``, ..."""

    format_name = "quorum"
    child_list = CHILDREN
    sees_reads = True
    filename = ""
    strong_options = frozenset({"vote-threshold", "blkverify", "rewrite-corrupted", "read-pattern"})

    def __init__(
        self,
        context: OpenContext,
        children: Mapping[str, Child],
        options: BlockdevOptionsQuorum,
    ) -> None:
        super().__init__(context, children)
        self._threshold = options.vote_threshold
        self._fifo = options.read_pattern is QuorumReadPattern.FIFO
        self._blkverify = bool(options.blkverify) and not self._fifo
        self._rewrite = bool(options.rewrite_corrupted) and not self._fifo
        self._next_child = len(children)
        """The number in the name of the next child that is added."""
        lengths = {child.length for child in children.values()}
        if len(lengths) > 1:
            raise QmpError(f"Could not refresh total sector count: {os.strerror(errno.EIO)}")
        (self.length,) = lengths
        self.refresh_limits()

    @classmethod
    def child_roles(cls, options: Any) -> Mapping[str, ChildRole]:
        """Return one child for each member of the list."""
        listed = options.children or []
        if not isinstance(listed, list):
            raise QmpError("Option children is not a valid array")
        if not listed:
            raise QmpError("Number of provided children must be 1 or more")
        return {f"{CHILDREN}.{number}": ChildRole.DATA for number in range(len(listed))}

    @classmethod
    async def open(
        cls, context: OpenContext, options: BlockdevOptionsQuorum, children: Mapping[str, Child]
    ) -> QuorumDriver:
        """Open; raises ``QmpError`` for options that contradict each other."""
        _check_options(options, len(children))
        return cls(context, children, options)

    def refresh_limits(self) -> None:
        """Take over the strictest alignment."""
        self.request_alignment = max(
            child.node.driver.request_alignment for child in self.children.values()
        )

    def child_permissions(
        self, child: str, role: ChildRole, perm: Permission, shared: Permission
    ) -> tuple[Permission, Permission]:
        """Share neither writing nor resizing, which would make the children differ."""
        del child, role
        rewrites = self._rewrite and not self.inactive
        return (perm | Permission.WRITE if rewrites else perm), shared & _SHARED

    # Children that come and go

    def new_child_name(self) -> str:
        """Return the name of the edge to a further child."""
        if self._blkverify:
            raise QmpError("Cannot add a child to a quorum in blkverify mode")
        name = f"{CHILDREN}.{self._next_child}"
        self._next_child += 1
        return name

    def check_removal(self) -> None:
        """Raise ``QmpError`` if too few children would remain."""
        if len(self.children) <= self._threshold:
            raise QmpError(
                f"The number of children cannot be lower than the vote threshold {self._threshold}"
            )

    def child_removed(self, name: str) -> None:
        """Give the latest name to the next child again."""
        if name == f"{CHILDREN}.{self._next_child - 1}":
            self._next_child -= 1

    def may_replace_child(self, node: BlockNode) -> bool:
        """Return whether a child may be replaced by a copy of this node: nobody else uses it."""
        edges = [edge for edge in self.children.values() if edge.node is node]
        return bool(edges) and list(node.parents) == edges[:1]

    # Requests

    async def pread(self, offset: int, length: int) -> Buffer:
        """Read from the children, and let them vote."""
        if self._fifo:
            return await self._read_first(offset, length)
        children = list(self.children.values())
        answers = await self._ask_all(
            QuorumOpType.READ,
            offset,
            length,
            [(child, child.pread(offset, length)) for child in children],
        )
        good = [(child, data) for child, data in answers if not isinstance(data, OSError)]
        if len(good) < self._threshold:
            raise self._failure(offset, length, answers)
        first = good[0][1]
        for _, data in good[1:]:
            if data != first:
                return await self._vote(offset, length, good)
        return first

    async def _read_first(self, offset: int, length: int) -> Buffer:
        failure = os_error(errno.EIO)
        for child in list(self.children.values()):
            try:
                return await child.pread(offset, length)
            except OSError as error:
                self._report(QuorumOpType.READ, child, offset, length, error)
                failure = error
        raise failure

    async def _vote(self, offset: int, length: int, answers: list[tuple[Child, Buffer]]) -> Buffer:
        """Return what most children have; the others are reported, and rewritten if wanted."""
        if self._blkverify:
            self._end(offset, length, first_difference(*(data for _, data in answers)))
        votes = Votes((bytes(data), child) for child, data in answers)
        data, count = votes.winner()
        if count < self._threshold:
            self._report_failure(offset, length)
            raise os_error(errno.EIO)
        bad = votes.against(data)
        for child in bad:
            self._report(QuorumOpType.READ, child, offset, length)
        if self._rewrite:
            # An attempt: what is still wrong then is found again by the next read.
            await _all(child.pwrite(offset, data) for child in bad)
        return data

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write to all children."""
        data = await payload_bytes(payload)
        writes = [(it, it.pwrite(offset, data, flags)) for it in self.children.values()]
        await self._change(offset, len(data), writes)

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write zeroes to all children."""
        writes = [(it, it.pwrite_zeroes(offset, length, flags)) for it in self.children.values()]
        await self._change(offset, length, writes)

    async def _change(
        self, offset: int, length: int, writes: Sequence[tuple[Child, Awaitable[None]]]
    ) -> None:
        answers = await self._ask_all(QuorumOpType.WRITE, offset, length, writes)
        if sum(answer is None for _, answer in answers) < self._threshold:
            raise self._failure(offset, length, answers)

    async def flush(self) -> None:
        """Flush the children one after the other."""
        errors: list[tuple[Child, OSError]] = []
        children = list(self.children.values())
        for child in children:
            try:
                await child.flush()
            except OSError as error:
                self._report(QuorumOpType.FLUSH, child, 0, 0, error)
                errors.append((child, error))
        if len(children) - len(errors) < self._threshold:
            raise _most_frequent(errors)

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """Return zeroes where all children have zeroes, and data elsewhere."""
        answers: list[list[Extent]] = []
        for child in list(self.children.values()):
            try:
                answers.append(await child.block_status(offset, length))
            except OSError as error:
                self._report(QuorumOpType.READ, child, offset, length, error)
                return [Extent(offset, length, Status.DATA | Status.ALLOCATED)]
        return common_extents(offset, length, answers)

    # Errors

    async def _ask_all(
        self,
        kind: QuorumOpType,
        offset: int,
        length: int,
        requests: Sequence[tuple[Child, Awaitable[T]]],
    ) -> list[tuple[Child, T | OSError]]:
        """Return each child's answer; errors are reported."""
        results = await _all(request for _, request in requests)
        answers = list(zip((child for child, _ in requests), results, strict=True))
        for child, result in answers:
            if isinstance(result, OSError):
                self._report(kind, child, offset, length, result)
        return answers

    def _failure(
        self, offset: int, length: int, answers: Iterable[tuple[Child, object]]
    ) -> OSError:
        """Report that too few children succeeded, and return their error."""
        self._report_failure(offset, length)
        return _most_frequent(
            (child, answer) for child, answer in answers if isinstance(answer, OSError)
        )

    def _report(
        self,
        kind: QuorumOpType,
        child: Child,
        offset: int,
        length: int,
        error: OSError | None = None,
    ) -> None:
        data = {"type": kind, "node-name": child.node.node_name, **_sectors(offset, length)}
        if error is not None:
            data["error"] = strerror(error)
        self.context.env.emit("QUORUM_REPORT_BAD", data)

    def _report_failure(self, offset: int, length: int) -> None:
        node = self.context.env.graph.lookup(None, self.context.node_name)
        data = {"reference": node.device_or_node_name, **_sectors(offset, length)}
        self.context.env.emit("QUORUM_FAILURE", data)

    def _end(self, offset: int, length: int, at: int) -> NoReturn:
        _log.error(
            "quorum: offset=%d bytes=%d contents mismatch at offset %d",
            offset, length, at, extra={"bare": True},
        )  # fmt: skip
        sys.exit(1)


def _check_options(options: BlockdevOptionsQuorum, children: int) -> None:
    threshold = options.vote_threshold
    if threshold < 1:
        raise QmpError("Parameter 'vote-threshold' expects a value >= 1")
    if threshold > children:
        raise QmpError("threshold may not exceed children count")
    if options.read_pattern is QuorumReadPattern.FIFO or not options.blkverify:
        return
    if children != BLKVERIFY_CHILDREN or threshold != BLKVERIFY_CHILDREN:
        raise QmpError(
            "blkverify=on can only be set if there are exactly two files and vote-threshold is 2"
        )
    if options.rewrite_corrupted:
        raise QmpError("rewrite-corrupted=on cannot be used with blkverify=on")


async def _all(requests: Iterable[Awaitable[T]]) -> list[T | OSError]:
    """Return what the requests return, or the ``OSError`` that they raise."""
    results: list[T | OSError] = []
    for result in await asyncio.gather(*requests, return_exceptions=True):
        if isinstance(result, BaseException) and not isinstance(result, OSError):
            raise result
        results.append(result)
    return results


def _most_frequent(errors: Iterable[tuple[Child, OSError]]) -> OSError:
    number, _ = Votes((error.errno or errno.EIO, child) for child, error in errors).winner()
    return os_error(number)


def _sectors(offset: int, length: int) -> dict[str, Any]:
    first = offset // SECTOR
    return {"sector-num": first, "sectors-count": -(-(offset + length) // SECTOR) - first}
