"""What the tests of the host's files share."""

import os

import pytest

from blkxact.storage.os_file import OsStorage


@pytest.fixture
def storage():
    made = OsStorage()
    yield made
    made.close()


@pytest.fixture
def files(image_dir):
    """Return the descriptors of a source and a target, both empty."""
    source, target = (os.open(image_dir / name, os.O_RDWR | os.O_CREAT) for name in "st")
    yield source, target
    os.close(source)
    os.close(target)
