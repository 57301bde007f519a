"""Resident memory: after the start, and with 1,000 bitmaps on a disk."""

from __future__ import annotations

from .harness import Figure, Settings, servers

BITMAPS = 1000
DISK_SIZE = 1 << 40


def run(settings: Settings) -> list[Figure]:
    """Measure once; memory does not vary from turn to turn."""
    idle = Figure("resident memory, idle", "MiB", more_is_better=False)
    loaded = Figure(f"... with {BITMAPS} bitmaps of 1 TiB", "MiB", more_is_better=False)
    with servers(settings) as running:
        for server in running:
            server.execute("query-block-jobs")
            idle.add(server.name, server.memory() / 2**20)
            server.execute("blockdev-add", driver="null-co", node_name="disk", size=DISK_SIZE)
            for number in range(BITMAPS):
                server.execute(
                    "block-dirty-bitmap-add", node="disk", name=f"b{number}", granularity=65536
                )
            loaded.add(server.name, server.memory() / 2**20)
    return [idle, loaded]
