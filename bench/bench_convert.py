"""Image tools beside qemu-img: restores, comparisons and chains, each a program that runs once.

The disks are 512 MiB long, or ``--size`` if that is less, and full of bytes that are not zero:

* ``convert`` and ``compare`` read a qcow2 image that lies as its disk does, and a chain of ten.
* ``rebase`` puts an image on the lowest of two below it; half of the disk is in the middle one.
* ``chain verify`` and ``chain flatten`` work on a chain of thirty. QEMU has no command for the
  first: ``qemu-img check`` of each image, one after the other, stands beside it. Beside the second
  stands ``qemu-img convert``.

Each overlay holds a part of the disk in pieces of 64 KiB, chosen at random. A chain's base is full.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

from .harness import BLKXACT, QEMU, Figure, Settings
from .images import compare, create, fill
from .places import directory_in, places
from .programs import MIB, OWN_PROGRAM, Race, Words, run_once

SIZE = 512 * MIB
PIECE = 65536
SEED = 13
TEN, THIRTY = 10, 30
MUST = 1.0


def run(settings: Settings) -> list[Figure]:
    """Measure on the directory's file system, and on tmpfs."""
    figures: list[Figure] = []
    for label, place in places(settings, 6 * SIZE):
        with directory_in(place) as directory:
            here = replace(settings, directory=directory, size=min(settings.size, SIZE))
            figures += _Bench(here, label).run()
    return figures


class _Bench:
    def __init__(self, settings: Settings, label: str) -> None:
        self.settings = settings
        self.directory = settings.directory
        self.label = label
        self.size = settings.size

    def run(self) -> list[Figure]:
        self.settings.report(f"writing disks ({self.label})")
        base = self.directory / "base.qcow2"
        create(base, self.size)
        fill(base, [(at, MIB) for at in range(0, self.size, MIB)])
        chains = {number: self._chain(base, number) for number in (TEN, THIRTY)}
        figures: list[Figure] = []
        for fmt in ("raw", "qcow2"):
            figures += self._convert(f"convert qcow2 to {fmt}", base, fmt)
        figures += self._convert(f"convert a chain of {TEN} to one", chains[TEN], "qcow2")
        figures += self._compare(base)
        figures += self._rebase(base)
        figures += self._verify(chains[THIRTY])
        figures += self._convert(
            f"chain flatten of {THIRTY}", chains[THIRTY], "qcow2", own=("chain", "flatten", "-q")
        )
        return figures

    def _chain(self, base: Path, number: int) -> Path:
        """Make a chain of so many images; return the uppermost."""
        rng = random.Random(SEED)
        top = base
        for level in range(1, number):
            above = self.directory / f"chain{number}-{level}.qcow2"
            create(above, self.size, backing=top)
            fill(above, _pieces(rng, self.size, 1 / number))
            top = above
        return top

    def _race(self, title: str) -> Race:
        self.settings.report(f"{self.label}, {title}")
        return Race(f"{self.label}, {title}", must=MUST)

    def _convert(
        self, title: str, source: Path, fmt: str, own: Words = ("image", "convert")
    ) -> list[Figure]:
        targets = {name: self.directory / f"{name}.out" for name in (BLKXACT, QEMU)}
        words: list[str | Path] = ["-f", "qcow2", "-O", fmt, source]
        figures = self._race(title).measure(
            self._both(
                [*OWN_PROGRAM, *own, *words, targets[BLKXACT]],
                ["qemu-img", "convert", *words, targets[QEMU]],
            ),
            self.settings.turns,
            prepare=lambda name: targets[name].unlink(missing_ok=True),
            check=lambda name: compare(source, targets[name], fmt, must=True),
        )
        for target in targets.values():
            target.unlink(missing_ok=True)
        return figures

    def _compare(self, base: Path) -> list[Figure]:
        other = self.directory / "other.raw"
        run_once(["qemu-img", "convert", "-O", "raw", base, other])
        words: list[str | Path] = ["compare", "-f", "qcow2", "-F", "raw", base, other]
        figures = self._race("compare two full disks").measure(
            self._both([*OWN_PROGRAM, "image", *words], ["qemu-img", *words]), self.settings.turns
        )
        other.unlink()
        return figures

    def _rebase(self, base: Path) -> list[Figure]:
        """Put an image whose backing file holds half of the disk on the one below that."""
        middle, top = self.directory / "middle.qcow2", self.directory / "top.qcow2"
        create(middle, self.size, backing=base)
        fill(middle, [(at, MIB) for at in range(0, self.size, 2 * MIB)], first=100)
        create(top, self.size, backing=middle)
        copies = {name: self.directory / f"{name}.qcow2" for name in self.settings.servers}
        words: list[str | Path] = ["rebase", "-f", "qcow2", "-F", "qcow2", "-b", base]
        figures = self._race("rebase, half of the disk changed").measure(
            self._both(
                [*OWN_PROGRAM, "image", *words, copies[BLKXACT]],
                ["qemu-img", *words, copies.get(QEMU, top)],
            ),
            self.settings.turns,
            prepare=lambda name: shutil.copyfile(top, copies[name]),
            check=lambda name: compare(top, copies[name], must=True),
        )
        for path in (middle, top, *copies.values()):
            path.unlink()
        return figures

    def _verify(self, top: Path) -> list[Figure]:
        # The uppermost first, as ours goes.
        levels = [self.directory / f"chain{THIRTY}-{level}.qcow2" for level in range(1, THIRTY)]
        names = " ".join(str(path) for path in (*reversed(levels), self.directory / "base.qcow2"))
        each = f"for name in {names}; do qemu-img check -q -f qcow2 $name || exit; done"
        return self._race(f"chain verify of {THIRTY}").measure(
            self._both([*OWN_PROGRAM, "chain", "verify", top], ["sh", "-c", each]),
            self.settings.turns,
        )

    def _both(self, ours: Words, theirs: Words) -> dict[str, Words]:
        programs = {BLKXACT: ours, QEMU: theirs}
        return {name: programs[name] for name in self.settings.servers}


def _pieces(rng: random.Random, size: int, share: float) -> list[tuple[int, int]]:
    chosen = rng.sample(range(size // PIECE), int(size / PIECE * share))
    return sorted((at * PIECE, PIECE) for at in chosen)
