"""A script on both sides at once, up to the first difference that nothing explains."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .emulator import Emulator, Said, SilentError, running
from .known import Difference, Known
from .mask import Mask
from .observe import look_into, observe
from .script import Script, name_of

NOTHING = "(nothing)"
"""Stands where one side has a value and the other has not."""
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


class Side(NamedTuple):
    """One of the two programs in a run."""

    emulator: Emulator
    directory: Path
    mask: Mask


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
        step = -1
        try:
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
                    if any(_is_about_success(each) for each in found):
                        return Outcome(None, explained, step + 1)  # from here on they must differ
                found = await _end(len(script.steps), sides)
        except SilentError as error:
            return Outcome(Difference(step, "silence", str(error), NOTHING), explained, step + 1)
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


async def _states(sides: Sequence[Side]) -> list[Difference]:
    """Return how the two differ before the first step."""
    ours, theirs = [side.mask(await observe(side.emulator)) for side in sides]
    return _compare(-1, "(start)", ours, theirs)


async def _step(step: int, line: str, sides: Sequence[Side]) -> list[Difference]:
    """Send a line to both; return how what they say and what they are then differ."""
    ours, theirs = await asyncio.gather(*(_say(side, line) for side in sides))
    name = name_of(line)
    found = _compare(step, name, ours[0], theirs[0])
    found += _compare(step, f"{name} events", _by_source(ours[1]), _by_source(theirs[1]))
    if not any(map(_is_about_success, found)):
        for query, state in ours[2].items():
            found += _compare(step, query, state, theirs[2].get(query, NOTHING))
    return found


async def _say(side: Side, line: str) -> tuple[Any, list[dict[str, Any]], dict[str, Any]]:
    said: Said = await side.emulator.say(line)
    replies, events = side.mask(said.replies), side.mask(said.events)
    return replies, events, side.mask(await observe(side.emulator))


async def _end(step: int, sides: Sequence[Side]) -> list[Difference]:
    """End both programs; return how their last events differ."""
    last = await asyncio.gather(*(side.emulator.quit() for side in sides))
    ours, theirs = (_by_source(side.mask(events)) for side, events in zip(sides, last, strict=True))
    return _compare(step, "quit events", ours, theirs)


def _by_source(events: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Sort events by what they are of: only of one job or node is their order determined.

    A drained section pauses QEMU's jobs for a moment, or not, as it happens: of statuses only those
    that are not ``paused`` are compared, and of equal ones in a row the first.
    """
    sources: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        data = event.get("data", {})
        source = data.get("id") or data.get("device") or data.get("node-name") or event["event"]
        of_same = sources[str(source)]
        if data.get("status") != "paused" and (not of_same or of_same[-1] != event):
            of_same.append(event)
    return {source: of_same for source, of_same in sources.items() if of_same}


def _is_about_success(difference: Difference) -> bool:
    """Whether a command was refused on one side only."""
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
    elif json.dumps(ours) != json.dumps(theirs):
        yield path, ours, theirs


def _filled(values: list[Any], length: int) -> list[Any]:
    return values + [NOTHING] * (length - len(values))
