"""A script on both sides at once, up to the first difference that nothing explains."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from .differences import compare
from .emulator import running
from .known import Difference, Known
from .mask import Mask
from .observe import look_into
from .script import Script
from .sides import Side, end, parts_ways, states, take_step

_MAKE_IMAGES = """\
import shlex, sys
from blkxact.cli.main import main
sys.exit(any(main(["image", *shlex.split(words)]) for words in sys.argv[1:]))
"""
"""All of them in one process, which takes a while to start."""
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
        steps = 0
        masks = [Mask(str(directory)) for directory in directories]
        for lines in script.lives():
            async with self._running(directories, masks) as sides:
                found = await states(steps - 1, "(start)", sides, all_of=True)
                if difference := self._first(found, explained):
                    return Outcome(difference, explained, steps)
                for line in lines:
                    found = await take_step(steps, line, sides)
                    steps += 1
                    if difference := self._first(found, explained):
                        return Outcome(difference, explained, steps)
                    if any(map(parts_ways, found)):
                        return Outcome(None, explained, steps)
                found = await end(steps, sides)
                steps += 1
            if difference := self._first(found, explained):
                return Outcome(difference, explained, steps)
        found = []
        for name in _images_in(*directories):
            ours, theirs = [await look_into(directory / name) for directory in directories]
            found += compare(len(script.steps), f"image {name}", ours, theirs)
        return Outcome(self._first(found, explained), explained, len(script.steps))

    @asynccontextmanager
    async def _running(
        self, directories: Sequence[Path], masks: Sequence[Mask]
    ) -> AsyncIterator[list[Side]]:
        """Run both programs until the block is left."""
        async with AsyncExitStack() as stack:
            started = await asyncio.gather(
                *(
                    stack.enter_async_context(running(program, directory))
                    for program, directory in zip(self._programs, directories, strict=True)
                ),
                return_exceptions=True,  # or the other one would start after the block was left
            )
            sides = []
            for emulator, mask in zip(started, masks, strict=True):
                if isinstance(emulator, BaseException):
                    raise emulator
                sides.append(Side(emulator, mask))
            yield sides

    def _first(self, found: Sequence[Difference], explained: list[Difference]) -> Difference | None:
        """Return the first difference that is not known; note those that are.

        Both may fall silent alike, where a limit of the script lets no request pass.
        """
        for difference in found:
            if difference.ours == difference.theirs:
                continue
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
