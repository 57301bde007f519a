"""The machine that is not there: what management programs ask of it, and the honest answers.

The answers are those of a QEMU whose machine has nothing (``-machine none``), but for what the
command line says of it.

QEMU's counterpart: ``qapi/machine.json``, ``qapi/machine-target.json``, ``qapi/misc.json``,
``qapi/tpm.json``, ``qapi/migration.json``, ``qapi/ui.json`` and their like.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from blkxact.block_layer import BlockLayer
from blkxact.errors import ErrorClass, QmpError
from blkxact.machine.machine_types import CPU_MODELS, machine_types
from blkxact.machine.objects import Iothread
from blkxact.qapi.common import NoArguments
from blkxact.qapi.machine import (
    Balloon,
    InputSendEvent,
    QueryCpuModelExpansion,
    QueryMachines,
    QueryRxFilter,
    QueryStats,
    QueryStatsSchemas,
    Screendump,
    SendKey,
)
from blkxact.qapi.migration import MigrateSetCapabilities

from .command import Command

ANSWERS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "query-chardev-backends": [{"name": "socket"}, {"name": "stdio"}],
        "query-colo-status": {"mode": "none", "last-mode": "none", "reason": "none"},
        "query-cpu-definitions": CPU_MODELS,
        "query-current-machine": {"wakeup-suspend-support": False},
        "query-dirty-rate": {
            "status": "unstarted",
            "start-time": 0,
            "calc-time": 0,
            "sample-pages": 0,
            "mode": "page-sampling",
        },
        "query-display-options": {"type": "none"},
        "query-dump": {"status": "none", "completed": 0, "total": 0},
        "query-dump-guest-memory-capability": {"formats": []},
        "query-memdev": [],
        "query-memory-devices": [],
        "query-mice": [],
        "query-migrate": {},
        "query-migrate-capabilities": [],
        "query-migrate-parameters": {},
        "query-pci": [],
        "query-pr-managers": [],
        "query-replay": {"mode": "none", "icount": 0},
        "query-sev": {
            "enabled": False,
            "api-major": 0,
            "api-minor": 0,
            "build-id": 0,
            "policy": 0,
            "state": "uninit",
            "handle": 0,
        },
        "query-spice": {"enabled": False, "migrated": False, "mouse-mode": "client"},
        "query-target": {"arch": "x86_64"},
        "query-tpm": [],
        "query-tpm-models": [],
        "query-tpm-types": [],
        "query-vcpu-dirty-limit": [],
        "query-vnc": {"enabled": False},
        "query-vnc-servers": [],
        "query-xen-replication-status": {"error": False},
        "rtc-reset-reinjection": {},
        "x-accel-stats": {"human-readable-text": ""},
        "x-query-interrupt-controllers": {"human-readable-text": ""},
        "x-query-irq": {"human-readable-text": ""},
        "x-query-jit": {"human-readable-text": ""},
        "x-query-numa": {"human-readable-text": "0 nodes\n"},
        "x-query-opcount": {"human-readable-text": ""},
        "x-query-ramblock": {"human-readable-text": ""},
        "x-query-rdma": {"human-readable-text": ""},
        "x-query-roms": {"human-readable-text": ""},
        "x-query-virtio": [],
    }
)
"""Command to what it returns."""

_WITHOUT_CONSOLE: Final = "There is no console to take a screendump from"
_WITHOUT_BALLOON: Final = "No balloon device has been activated"

_OF_THE_HOST: Final = ("max", "host")
"""CPU models that are what the host can do."""

REFUSALS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "inject-nmi": "this feature or command is not currently supported",
        "query-acpi-ospm-status": "command is not supported, missing ACPI device",
        "query-hotpluggable-cpus": "The feature 'query-hotpluggable-cpus' is not enabled",
        "query-sev-capabilities": "KVM not enabled",
        "query-sev-launch-measure": "SEV launch measurement is not available",
        "query-sgx": "SGX is only supported on PC machines",
        "query-sgx-capabilities": "SGX is not enabled in KVM",
        "query-vm-generation-id": "VM Generation ID device not found",
        "system_wakeup": "wake-up from suspend is not supported by this guest",
        "x-colo-lost-heartbeat": "The feature 'colo' is not enabled",
        "x-query-profile": "Internal profiler not compiled",
        "x-query-usb": "USB support not enabled",
    }
)
"""Command to QEMU's error for a machine that does not have what it asks about."""


def query_name(layer: BlockLayer, args: NoArguments) -> dict[str, str]:
    """query-name."""
    del args
    name = layer.machine.options.name
    return {} if name is None else {"name": name}


def query_uuid(layer: BlockLayer, args: NoArguments) -> dict[str, str]:
    """query-uuid."""
    del args
    return {"UUID": layer.machine.options.uuid}


def query_kvm(layer: BlockLayer, args: NoArguments) -> dict[str, bool]:
    """query-kvm: enabled where QEMU, given this command line on this host, would use it.

    libvirt probes an emulator without KVM on a host with it again each time that it looks.
    """
    del args
    return {"enabled": layer.machine.options.accelerator == "kvm", "present": True}


def query_accelerators(layer: BlockLayer, args: NoArguments) -> dict[str, Any]:
    """query-accelerators: those that ``-accel`` takes."""
    del args
    return {"enabled": layer.machine.options.accelerator, "present": ["kvm", "qtest", "tcg"]}


def query_machines(layer: BlockLayer, args: QueryMachines) -> list[dict[str, Any]]:
    """query-machines: the names that ``-machine`` takes."""
    del layer, args
    return machine_types()


def query_cpus(layer: BlockLayer, args: NoArguments) -> list[dict[str, Any]]:
    """query-cpus-fast: as many as the command line says; all of them are this process."""
    del args
    return [
        {
            "cpu-index": index,
            "qom-path": f"/machine/unattached/device[{index}]",
            "thread-id": os.getpid(),
            "props": {"socket-id": 0, "core-id": index, "thread-id": 0},
            "target": "x86_64",
        }
        for index in range(layer.machine.options.cpus)
    ]


def query_memory_size(layer: BlockLayer, args: NoArguments) -> dict[str, int]:
    """query-memory-size-summary, in bytes."""
    del args
    return {"base-memory": layer.machine.options.memory, "plugged-memory": 0}


def query_iothreads(layer: BlockLayer, args: NoArguments) -> list[dict[str, Any]]:
    """query-iothreads: the event loop's thread does the work of all."""
    del args
    return [
        {"id": id_, "thread-id": os.getpid(), **one.describe()}
        for id_, one in layer.objects.items()
        if isinstance(one, Iothread)
    ]


def query_chardev(layer: BlockLayer, args: NoArguments) -> list[dict[str, Any]]:
    """query-chardev: the monitors'."""
    del args
    return layer.chardevs()


def expand_cpu_model(layer: BlockLayer, args: QueryCpuModelExpansion) -> dict[str, Any]:
    """query-cpu-model-expansion: no model has properties, as nothing runs on it."""
    del layer
    name = args.model.name
    if name in _OF_THE_HOST:
        raise QmpError(f"CPU model '{name}' needs virtual processors, which blkxact does not have")
    if all(name != model["name"] for model in CPU_MODELS):
        raise QmpError(f"CPU model '{name}' not found")
    return {"model": {"name": name, "props": {}}}


def query_stats(layer: BlockLayer, args: QueryStats | QueryStatsSchemas) -> list[Any]:
    """query-stats, query-stats-schemas: no provider has any."""
    del layer, args
    return []


def query_rx_filter(layer: BlockLayer, args: QueryRxFilter) -> list[Any]:
    """query-rx-filter: there is no network device."""
    del layer
    if args.name is not None:
        raise QmpError(f"invalid net client name: {args.name}")
    return []


def send_key(layer: BlockLayer, args: SendKey) -> None:
    """send-key: accepted; nobody listens."""
    del layer, args


def send_events(layer: BlockLayer, args: InputSendEvent) -> None:
    """input-send-event: accepted while the machine runs; nobody listens."""
    del args
    if not layer.machine.running:
        raise QmpError("VM not running")


def screendump(layer: BlockLayer, args: Screendump) -> None:
    """Refuse."""
    del layer, args
    raise QmpError(_WITHOUT_CONSOLE)


def balloon(layer: BlockLayer, args: Any) -> None:
    """balloon, query-balloon: refused."""
    del layer, args
    raise QmpError(_WITHOUT_BALLOON, ErrorClass.DEVICE_NOT_ACTIVE)


def set_migration_capabilities(layer: BlockLayer, args: MigrateSetCapabilities) -> None:
    """migrate-set-capabilities: accepted, as libvirt asks for ``events`` before it starts."""
    del layer, args


async def exit_preconfig(layer: BlockLayer, args: NoArguments) -> None:
    """x-exit-preconfig: make the rest of the machine, and start it."""
    del args
    leave = layer.machine.leave_preconfig
    if leave is None:
        raise QmpError("The command is permitted only before machine initialization")
    await leave()


def _always(answer: Any) -> Callable[[BlockLayer, NoArguments], Any]:
    def handler(layer: BlockLayer, args: NoArguments) -> Any:
        del layer, args
        return answer

    return handler


def _refuse(desc: str) -> Callable[[BlockLayer, NoArguments], None]:
    def handler(layer: BlockLayer, args: NoArguments) -> None:
        del layer, args
        raise QmpError(desc)

    return handler


_IN_STORAGE_DAEMON: Final = frozenset({"query-chardev-backends"})

COMMANDS: Final = [
    Command("balloon", balloon, Balloon, system=True, locked=False),
    Command("input-send-event", send_events, InputSendEvent, system=True, locked=False),
    Command(
        "migrate-set-capabilities",
        set_migration_capabilities,
        MigrateSetCapabilities,
        system=True,
        locked=False,
    ),
    Command("query-accelerators", query_accelerators, system=True, locked=False),
    Command("query-balloon", balloon, system=True, locked=False),
    Command("query-chardev", query_chardev, locked=False),
    Command(
        "query-cpu-model-expansion",
        expand_cpu_model,
        QueryCpuModelExpansion,
        system=True,
        locked=False,
    ),
    Command("query-cpus-fast", query_cpus, system=True, locked=False),
    Command("query-iothreads", query_iothreads, system=True),
    Command("query-kvm", query_kvm, system=True, locked=False),
    Command("query-machines", query_machines, QueryMachines, system=True, locked=False),
    Command("query-memory-size-summary", query_memory_size, system=True, locked=False),
    Command("query-name", query_name, system=True, locked=False),
    Command("query-rx-filter", query_rx_filter, QueryRxFilter, system=True, locked=False),
    Command("query-stats", query_stats, QueryStats, system=True, locked=False),
    Command("query-stats-schemas", query_stats, QueryStatsSchemas, system=True, locked=False),
    Command("query-uuid", query_uuid, system=True, locked=False),
    Command("x-exit-preconfig", exit_preconfig, system=True),
    Command("screendump", screendump, Screendump, system=True, locked=False),
    Command("send-key", send_key, SendKey, system=True, locked=False),
    *(
        Command(name, _always(answer), system=name not in _IN_STORAGE_DAEMON, locked=False)
        for name, answer in ANSWERS.items()
    ),
    *(Command(name, _refuse(desc), system=True, locked=False) for name, desc in REFUSALS.items()),
]
