"""The example in README.md does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_readme_example_ends_with_identical_images(image_dir):
    (script,) = re.findall(r"```sh\n(.*?)```", README.read_text(), re.DOTALL)
    tool = image_dir / "blkxact"
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m blkxact "$@"\n')
    tool.chmod(0o755)
    done = subprocess.run(
        ["sh", "-e", "-c", script],
        cwd=image_dir,
        env={**os.environ, "PATH": f"{image_dir}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stderr == ""
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("Images are identical.\n")
    assert not (image_dir / "qmp.sock").exists()
