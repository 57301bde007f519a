"""The machine types and CPU models whose names the command line takes.

Management programs look a domain's machine and CPU up before they start an emulator.

QEMU's counterpart: ``hw/i386/pc_piix.c``, ``hw/i386/pc_q35.c``, ``hw/core/null-machine.c``.
"""

from __future__ import annotations

from typing import Any, Final

_VERSIONS: Final = (
    *(f"2.{minor}" for minor in range(4, 13)),
    *("3.0", "3.1", "4.0", "4.1", "4.2", "5.0", "5.1", "5.2"),
    *("6.0", "6.1", "6.2", "7.0", "7.1", "7.2"),
)
_LATEST: Final = _VERSIONS[-1]
DEFAULT_MACHINE: Final = f"pc-i440fx-{_LATEST}"
ALIASES: Final = {"pc": DEFAULT_MACHINE, "q35": f"pc-q35-{_LATEST}"}
_ALIAS_OF: Final = {name: alias for alias, name in ALIASES.items()}
_MAX_CPUS: Final = {"pc-i440fx": 255, "pc-q35": 288}

CPU_MODELS: Final[list[dict[str, Any]]] = [
    {
        "name": name,
        "typename": f"{name}-x86_64-cpu",
        "static": name == "base",
        "migration-safe": name not in ("max", "host"),
        "unavailable-features": [],
        "deprecated": False,
    }
    for name in ("max", "host", "base", "qemu64", "kvm64", "qemu32", "kvm32")
]
"""CpuDefinitionInfo of every model."""


def machine_types() -> list[dict[str, Any]]:
    """Return MachineInfo of every type."""
    types = [_machine("none", 1)]
    for family, max_cpus in _MAX_CPUS.items():
        types += (_pc(f"{family}-{version}", max_cpus) for version in _VERSIONS)
    return types


def _machine(name: str, max_cpus: int) -> dict[str, Any]:
    return {
        "name": name,
        "cpu-max": max_cpus,
        "hotpluggable-cpus": False,
        "numa-mem-supported": False,
        "deprecated": False,
        "default-ram-id": "ram",
    }


def _pc(name: str, max_cpus: int) -> dict[str, Any]:
    info = _machine(name, max_cpus)
    info |= {"default-cpu-type": "qemu64-x86_64-cpu", "default-ram-id": "pc.ram"}
    if name in _ALIAS_OF:
        info["alias"] = _ALIAS_OF[name]
    if name == DEFAULT_MACHINE:
        info["is-default"] = True
    return info
