"""A script on both sides at once, up to the first difference that nothing explains."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from blkxact.qmp.json_text import encode_text

from .emulator import Emulator, SilentError, running
from .known import Difference, Known
from .mask import Mask
from .observe import look_into, observe
from .script import Script, name_of

T = TypeVar("T")

NOTHING = "(nothing)"
"""Stands where one side has a value and the other has not."""
ANSWERS = "answers"
SILENCE = "silence"
LATE = frozenset({"DEVICE_DELETED", "BLOCK_EXPORT_DELETED"})
"""Events that come soon after what they report; all of them are compared at the end."""
PASSING = frozenset({"paused", "running"})
SUFFIXES = frozenset({".qcow2", ".raw"})
"""Files that are looked into at the end."""


class ScriptError(Exception):
    """A script asks for images that cannot be made."""


class Outcome(NamedTuple):
    """What a run found."""

    difference: Difference | None
    """The first that nothing explains."""
    explained: list[Difference]
    steps: int
    """Lines that were sent before the run ended."""


@dataclass
class Side:
    """One of the two programs in a run."""

    emulator: Emulator
    directory: Path
    mask: Mask
    late: list[dict[str, Any]] = field(default_factory=list)
    """Events of ``LATE`` so far."""


class Comparison:
    """Two programs, and what is known to differ between them."""

    def __init__(
        self, ours: Sequence[str], theirs: Sequence[str], known: Sequence[Known], scratch: Path
    ) -> None:
        self._programs = (ours, theirs)
        self._known = known
        self._scratch = scratch
        self._templates: dict[tuple[str, ...], Path] = {}
        self._runs = 0

    async def run(self, script: Script) -> Outcome:
        """Run a script on both. Raises ``ScriptError`` if its images cannot be made."""
        template = self._template(script.images)
        self._runs += 1
        directories = [self._scratch / f"run{self._runs}-{side}" for side in ("ours", "theirs")]
        for directory in directories:
            shutil.copytree(template, directory)
        explained: list[Difference] = []
        try:
            return await self._run(script, directories, explained)
        finally:
            for directory in directories:
                shutil.rmtree(directory, ignore_errors=True)

    async def _run(
        self, script: Script, directories: Sequence[Path], explained: list[Difference]
    ) -> Outcome:
        async with contextlib.AsyncExitStack() as stack:
            started = await asyncio.gather(
                *(
                    stack.enter_async_context(running(program, directory))
                    for program, directory in zip(self._programs, directories, strict=True)
                )
            )
            sides = [
                Side(emulator, directory, Mask(str(directory)))
                for emulator, directory in zip(started, directories, strict=True)
            ]
            if difference := self._first(await _states(sides), explained):
                return Outcome(difference, explained, 0)
            for step, line in enumerate(script.steps):
                found = await _step(step, line, sides)
                if difference := self._first(found, explained):
                    return Outcome(difference, explained, step + 1)
                if any(map(_parts_ways, found)):
                    return Outcome(None, explained, step + 1)
            found = await _end(len(script.steps), sides)
        for name in _images_in(*directories):
            ours, theirs = [await look_into(directory / name) for directory in directories]
            found += _compare(len(script.steps), f"image {name}", ours, theirs)
        return Outcome(self._first(found, explained), explained, len(script.steps))

    def _first(self, found: Sequence[Difference], explained: list[Difference]) -> Difference | None:
        """Return the first difference that is not known; note those that are."""
        for difference in found:
            if not any(known.explains(difference) for known in self._known):
                return difference
            explained.append(difference)
        return None

    def _template(self, images: tuple[str, ...]) -> Path:
        """Return a directory with the script's images."""
        if images not in self._templates:
            directory = self._scratch / f"images{len(self._templates)}"
            directory.mkdir()
            _make_images(images, directory)
            self._templates[images] = directory
        return self._templates[images]


def _make_images(images: Sequence[str], directory: Path) -> None:
    for words in images:
        done = subprocess.run(  # noqa: S603 - this program
            [sys.executable, "-m", "blkxact", "image", *shlex.split(words)],
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ScriptError(f"image {words}: {done.stderr.strip()}")


def _images_in(*directories: Path) -> list[str]:
    found = {path.name for directory in directories for path in directory.iterdir()}
    return sorted(name for name in found if Path(name).suffix in SUFFIXES)


async def _both(step: int, where: str, calls: Sequence[Awaitable[T]]) -> list[T] | Difference:
    """Wait for both sides; a difference if one or both fall silent."""
    done = await asyncio.gather(*calls, return_exceptions=True)
    answers: list[T] = []
    for each in done:
        if isinstance(each, SilentError):
            texts = [str(one) if isinstance(one, SilentError) else ANSWERS for one in done]
            return Difference(step, f"{where} {SILENCE}", *texts)
        if isinstance(each, BaseException):
            raise each
        answers.append(each)
    return answers


async def _states(sides: Sequence[Side]) -> list[Difference]:
    """Return how the two differ before the first step."""
    both = await _both(-1, "(start)", [_observe(side) for side in sides])
    return [both] if isinstance(both, Difference) else _compare(-1, "(start)", *both)


async def _observe(side: Side) -> dict[str, Any]:
    return dict(side.mask(await observe(side.emulator)))


async def _step(step: int, line: str, sides: Sequence[Side]) -> list[Difference]:
    """Send a line to both; return how what they say and what they are then differ."""
    name = name_of(line)
    said = await _both(step, name, [side.emulator.say(line) for side in sides])
    if isinstance(said, Difference):
        return [said]
    for side, one in zip(sides, said, strict=True):
        side.late += [event for event in one.events if event["event"] in LATE]
    found = _compare(
        step, name, *(side.mask(one.replies) for side, one in zip(sides, said, strict=True))
    )
    found += _compare(
        step,
        f"{name} events",
        *(_by_source(side.mask(one.events)) for side, one in zip(sides, said, strict=True)),
    )
    if any(map(_parts_ways, found)):
        return found
    states = await _both(step, name, [_observe(side) for side in sides])
    if isinstance(states, Difference):
        return [*found, states]
    ours, theirs = states
    for query, state in ours.items():
        found += _compare(step, query, state, theirs[query])
    return found


async def _end(step: int, sides: Sequence[Side]) -> list[Difference]:
    """End both programs; return how their last events differ, and those that may come late."""
    last = await _both(step, "quit", [side.emulator.quit() for side in sides])
    if isinstance(last, Difference):
        return [last]
    found = _compare(
        step,
        "quit events",
        *(_by_source(side.mask(events)) for side, events in zip(sides, last, strict=True)),
    )
    late = [
        _by_source(
            side.mask(side.late + [event for event in events if event["event"] in LATE]), LATE
        )
        for side, events in zip(sides, last, strict=True)
    ]
    return found + _compare(step, "late events", *late)


def _by_source(
    events: Sequence[dict[str, Any]], names: frozenset[str] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Sort events by what they are of: only of one job or node is their order determined.

    Of those with ``names``; otherwise of those that are not ``LATE``.

    A drained section pauses QEMU's jobs for a moment, or not, as it happens: the statuses
    ``paused`` and ``running`` are compared in queries only.
    """
    sources: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if (event["event"] in LATE) != (names is LATE):
            continue
        data = event.get("data", {})
        source = data.get("id") or data.get("device") or data.get("node-name") or event["event"]
        if data.get("status") not in PASSING:
            sources[str(source)].append(event)
    return dict(sources)


def _parts_ways(difference: Difference) -> bool:
    """Whether the two are not in the same state afterwards: only one refused, or answers."""
    if difference.where.endswith(SILENCE):
        return True
    path = difference.where.partition(" ")[2]
    return path.endswith(("/return", "/error")) and NOTHING in (
        difference.ours,
        difference.theirs,
    )


def _compare(step: int, where: str, ours: Any, theirs: Any) -> list[Difference]:
    return [
        Difference(step, f"{where} {path}", one, other)
        for path, one, other in _differences("", ours, theirs)
    ]


def _differences(path: str, ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the innermost places in which two values differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            yield from _differences(
                f"{path}/{key}", ours.get(key, NOTHING), theirs.get(key, NOTHING)
            )
    elif isinstance(ours, list) and isinstance(theirs, list):
        length = max(len(ours), len(theirs))
        for index, (one, other) in enumerate(
            zip(_filled(ours, length), _filled(theirs, length), strict=True)
        ):
            yield from _differences(f"{path}/{index}", one, other)
    elif encode_text(ours) != encode_text(theirs):
        yield path, ours, theirs


def _filled(values: list[Any], length: int) -> list[Any]:
    return values + [NOTHING] * (length - len(values))
