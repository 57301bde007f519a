"""Every command answers ``--help`` and ``--version``, and its text reaches any stream."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from cli_runs import TIMEOUT, blkxact

from blkxact.cli.image import VERBS
from blkxact.cli.main import COMMANDS

IMAGE_VERBS = [("image", verb) for verb in VERBS]
CHAIN_VERBS = [("chain", verb) for verb in ("show", "verify", "flatten")]


def run(command, **environment):
    """Run a shell command in which ``$B`` is ``blkxact``."""
    tool = f"{sys.executable} -m blkxact"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env={**os.environ, **environment, "B": tool},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_command_help_and_version_exit_0(command):
    for option in ("--help", "-h", "--version"):
        done = blkxact(command, option)
        assert (done.status, done.err) == (0, ""), option
        assert done.out


@pytest.mark.parametrize("option", ["-version", "--version"])
def test_system_version_matches_what_programs_expect_of_qemu(option):
    first, second = blkxact("system", option).out.splitlines()
    assert re.fullmatch(r"QEMU emulator version 7\.2\.22 \(blkxact [0-9.]+\)", first)
    assert second


@pytest.mark.parametrize("option", ["-h", "-help", "--help"])
def test_system_help_lists_the_options(option):
    out = blkxact("system", option).out
    assert out.startswith("usage: blkxact system ")
    assert "-blockdev" in out


@pytest.mark.parametrize("words", [*IMAGE_VERBS, *CHAIN_VERBS], ids=" ".join)
def test_verb_help_says_what_it_does_and_holds_no_python(words):
    out = blkxact(*words, "--help").out
    description = out.split("\n\n")[1]
    assert description.rstrip().endswith(".")
    assert "('" not in out


def test_output_to_a_full_disk_is_one_line_and_status_1():
    done = run("$B --help > /dev/full", PYTHONUNBUFFERED="")
    assert (done.returncode, done.stderr) == (1, "blkxact: No space left on device\n")


def test_output_to_a_reader_that_has_gone_is_quiet():
    assert run("$B image --help | true").stderr == ""


def test_output_beyond_the_encoding_is_escaped(image_dir):
    done = run(f"$B image info {image_dir}/dïsk", PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert "d\\xefsk" in done.stderr
    assert "internal" not in done.stderr
