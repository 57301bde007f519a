"""What the tests of the host's files share."""

import pytest

from blkxact.storage.os_file import OsStorage


@pytest.fixture
def storage():
    made = OsStorage()
    yield made
    made.close()
