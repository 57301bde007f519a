"""The files of an emulator of the kit: the host's, and which of them it has opened."""

from __future__ import annotations

from blkxact.storage.descriptors import PREFIX, Descriptors
from blkxact.storage.file_hints import NO_HINTS, FileHints
from blkxact.storage.os_file import OsFile
from blkxact.testing.volatile_files import VolatileStorage


class KitStorage(VolatileStorage):
    """The host's file system; ``paths`` are the files that were opened for writing."""

    def __init__(self, descriptors: Descriptors, *, loses_power: bool) -> None:
        super().__init__(descriptors, loses_power=loses_power)
        self.descriptors = descriptors
        self.paths: set[str] = set()

    async def open(self, path: str, *, read_only: bool = False) -> OsFile:
        """Open an existing file."""
        file = await super().open(path, read_only=read_only)
        if not read_only and not path.startswith(PREFIX):
            self.paths.add(path)
        return file

    async def create(self, path: str, hints: FileHints = NO_HINTS) -> OsFile:
        """Create the file, or empty it, and open it for writing."""
        file = await super().create(path, hints)
        self.paths.add(path)
        return file

    def sever(self) -> None:
        """Close all files, and with them their locks; every later request fails."""
        self.close()  # no thread uses a file after this
        while self.open_files:
            file = self.open_files.pop()
            fd, file.fd = file.fd, -1
            self.close_descriptor(file.path, fd)
