"""A script on both sides at once, up to the first difference that nothing explains."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from .differences import compare
from .emulator import running
from .known import Difference, Known
from .lines import Lines
from .mask import Mask
from .observe import in_context, look_into
from .script import RESTART, Script
from .sides import Side, end, parts_ways, states, take_step
from .world import World, look_around

_MAKE_IMAGES = """\
import shlex, sys
from blkxact.cli.main import main
sys.exit(any(main(["image", *shlex.split(words)]) for words in sys.argv[1:]))
"""
"""All of them in one process, which takes a while to start."""
IMAGE = "image"
"""What the place of a difference in a file begins with."""
SUFFIXES = frozenset({".qcow2", ".raw"})
"""Files that are looked into at the end."""


class ScriptError(Exception):
    """A script asks for images that cannot be made."""


class _RunEndedError(Exception):
    """A run is over: there is a difference, or the two are not in the same state any more."""


class Outcome(NamedTuple):
    """What a run found."""

    difference: Difference | None
    """The first that nothing explains."""
    explained: list[Difference]
    script: Script
    """What was sent until the run ended."""


class _Run:
    """One run of a script: what was sent, and what was found."""

    def __init__(self, lines: Lines, directories: Sequence[Path], known: Sequence[Known]) -> None:
        self._lines = lines
        self._known = known
        self.directories = directories
        self.sent: list[str] = []
        self._in_context: list[str] = []
        """The same with what they met."""
        self.release = ""
        """Of the QEMU."""
        self.difference: Difference | None = None
        self.explained: list[Difference] = []

    def next_line(self, ours: Side) -> str | None:
        """Return the line that is sent next; None at the end."""
        world = World()
        if self._lines.looks_around:
            world = look_around(ours.seen, self.directories[0])
        line = self._lines.next_line(world)
        if line is not None:
            self.sent.append(line)
            self._in_context.append(in_context(line, ours.seen))
        return line

    def note(self, found: Sequence[Difference]) -> None:
        """Note how the two differ after the last line. Raises ``_RunEndedError``.

        Both may fall silent alike, where a limit of the script lets no request pass.
        """
        differences = [
            replace(it, line=self._cause(it), release=self.release)
            for it in found
            if it.ours != it.theirs
        ]
        if any(known.ends and known.explains(it) for known in self._known for it in differences):
            self.explained += differences  # the others follow from that one
            raise _RunEndedError
        for difference in differences:
            if not any(known.explains(difference) for known in self._known):
                self.difference = difference
                raise _RunEndedError
            self.explained.append(difference)
        if any(map(parts_ways, found)):
            raise _RunEndedError

    def _cause(self, difference: Difference) -> str:
        """Return the line after which it was seen; all lines for an image, which any may change."""
        last = 0 if difference.where.startswith(IMAGE) else -1
        return "\n".join(self._in_context[last:])


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

    async def run(self, lines: Lines) -> Outcome:
        """Run a script on both. Raises ``ScriptError`` if its images cannot be made."""
        template = self._template(lines.images)
        self._runs += 1
        directories = [self._scratch / f"run{self._runs}-{side}" for side in ("ours", "theirs")]
        for directory in directories:
            shutil.copytree(template, directory)
        run = _Run(lines, directories, self._known)
        try:
            await self._run(run)
        except _RunEndedError:
            pass
        finally:
            for directory in directories:
                shutil.rmtree(directory, ignore_errors=True)
        return Outcome(run.difference, run.explained, Script(lines.images, tuple(run.sent)))

    async def _run(self, run: _Run) -> None:
        line: str | None = RESTART
        while line == RESTART:
            async with self._running(run.directories) as sides:
                run.release = sides[1].emulator.release
                run.note(await states(-1, "(start)", sides, all_of=True))
                while (line := run.next_line(sides[0])) not in (None, RESTART):
                    run.note(await take_step(len(run.sent) - 1, str(line), sides))
                run.note(await end(len(run.sent), sides))
        for name in _images_in(*run.directories):
            ours, theirs = [await look_into(directory / name) for directory in run.directories]
            run.note(compare(len(run.sent), f"{IMAGE} {name}", ours, theirs))

    @asynccontextmanager
    async def _running(self, directories: Sequence[Path]) -> AsyncIterator[list[Side]]:
        """Run both programs until the block is left.

        A program that starts again may make up a name that it had made up before.
        """
        async with AsyncExitStack() as stack:
            started = await asyncio.gather(
                *(
                    stack.enter_async_context(running(program, directory))
                    for program, directory in zip(self._programs, directories, strict=True)
                ),
                return_exceptions=True,  # or the other one would start after the block was left
            )
            sides = []
            for emulator, directory in zip(started, directories, strict=True):
                if isinstance(emulator, BaseException):
                    raise emulator
                sides.append(Side(emulator, Mask(str(directory))))
            yield sides

    def _template(self, images: tuple[str, ...]) -> Path:
        """Return a directory with the script's images."""
        if images not in self._templates:
            directory = self._scratch / f"images{len(self._templates)}"
            directory.mkdir()
            _make_images(images, directory)
            self._templates[images] = directory
        return self._templates[images]


def _make_images(images: Sequence[str], directory: Path) -> None:
    done = subprocess.run(  # noqa: S603 - this program
        [sys.executable, "-c", _MAKE_IMAGES, *images],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ScriptError(f"image: {done.stderr.strip()}")


def _images_in(*directories: Path) -> list[str]:
    found = {path.name for directory in directories for path in directory.iterdir()}
    return sorted(name for name in found if Path(name).suffix in SUFFIXES)
