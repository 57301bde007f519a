"""The machine that is not there: what programs ask of it in passing, and the honest answer.

Backup tools look for a TPM, virtual CPUs or a migration before they begin. The answers are those of
a QEMU whose machine has nothing (``-machine none``).

QEMU's counterpart: ``qapi/machine.json``, ``qapi/misc.json``, ``qapi/tpm.json``,
``qapi/migration.json``.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final

from blkxact.block_layer import BlockLayer
from blkxact.qapi.common import NoArguments

from .command import Command

ANSWERS: Final = MappingProxyType(
    {
        "query-cpus-fast": [],
        "query-iothreads": [],
        "query-kvm": {"enabled": False, "present": False},
        "query-memory-devices": [],
        "query-migrate": {},
        "query-pci": [],
        "query-tpm": [],
        "query-uuid": {"UUID": "00000000-0000-0000-0000-000000000000"},
        "query-vnc": {"enabled": False},
    }
)
"""Command to what it returns."""


def _always(answer: Any) -> Callable[[BlockLayer, NoArguments], Any]:
    def handler(layer: BlockLayer, args: NoArguments) -> Any:
        del layer, args
        return answer

    return handler


COMMANDS: Final = [Command(name, _always(answer), locked=False) for name, answer in ANSWERS.items()]
