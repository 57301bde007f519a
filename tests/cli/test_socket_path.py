"""What may be where a socket is to be made."""

from __future__ import annotations

import socket
import subprocess

import pytest
from cli_runs import TIMEOUT
from programs import QUIET, SYSTEM

QUIT = b'{"execute":"qmp_capabilities"}{"execute":"quit"}'


def started_at(path):
    words = ["-qmp", "stdio", "-chardev", f"socket,id=a,path={path},server=on,wait=off"]
    return subprocess.run(
        [SYSTEM, *QUIET, *words], input=QUIT, capture_output=True, check=False, timeout=TIMEOUT
    )


def test_socket_replaces_an_empty_file(image_dir):
    """As the one that mktemp makes: Incus probes with it."""
    path = image_dir / "s"
    path.touch()
    done = started_at(path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert not path.exists()


@pytest.mark.parametrize("kind", ["file", "directory", "link", "served"])
def test_socket_replaces_nothing_that_may_be_needed(image_dir, kind):
    path = image_dir / "s"
    with socket.socket(socket.AF_UNIX) as other:
        if kind == "file":
            path.write_text("x")
        elif kind == "directory":
            path.mkdir()
        elif kind == "link":
            (image_dir / "empty").touch()
            path.symlink_to(image_dir / "empty")
        else:
            other.bind(str(path))
            other.listen()
        done = started_at(path)
        assert done.returncode == 1
        assert f"Failed to bind socket to {path}: Address already in use" in done.stderr.decode()
        assert path.lstat()
