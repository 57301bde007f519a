"""The monitor's ``commit``: the images are what QEMU leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from .qemu_pair import OURS, QEMU, Emulator, transcript
from .test_chain_jobs_like_qemu import SIZES, make_chain


def commit(emulator: Emulator) -> None:
    for line in ("commit d0", "commit all", "commit nope"):
        emulator.execute("human-monitor-command", command_line=line)
    emulator.execute("query-block")


@pytest.mark.qemu
def test_hmp_commit_leaves_the_images_of_qemu(image_dir: Path) -> None:
    drive = ("-drive", "id=d0,if=none,file=top.qcow2,format=qcow2")
    found = []
    for program in (QEMU, OURS):
        directory = image_dir / Path(program[0]).name
        directory.mkdir()
        make_chain(directory, SIZES)
        found.append(transcript((*program, *drive), directory, commit))
    assert found[1] == found[0]
