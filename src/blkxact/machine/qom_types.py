"""The types of objects and devices, for programs that look for what can be made.

QEMU's counterpart: ``qom/qom-qmp-cmds.c``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from blkxact.errors import ErrorClass, QmpError, device_not_found
from blkxact.qapi.describe import Builtin, Struct, describe
from blkxact.qapi.qom import OBJECT_MODELS, ObjectOptionsBase
from blkxact.qapi.versions import exists
from blkxact.runtime.release import Release

from .guest_devices import PCI, USB
from .machine_types import CPU_MODELS, machine_types
from .models import MODELS

_CHAINS: Final = """
    object < container object < device object < machine object < event-loop-base object < tls-creds
    object < secret_common object < memory-backend object < interface
    object < rng-backend rng-backend < rng-random rng-backend < rng-builtin
    object < throttle-group object < accel accel < tcg-accel accel < kvm-accel
    machine < none-machine machine < x86-machine x86-machine < generic-pc-machine
    event-loop-base < iothread tls-creds < tls-creds-x509 secret_common < secret
    memory-backend < memory-backend-ram memory-backend < memory-backend-file
    memory-backend < memory-backend-memfd
    device < pci-device device < scsi-device device < ide-device device < usb-device
    device < cpu cpu < x86_64-cpu device < floppy
    pci-device < virtio-pci pci-device < base-pci-bridge pci-device < ich9-ahci
    pci-device < nvme pci-device < pci-ehci-usb pci-ehci-usb < usb-ehci
    base-pci-bridge < pci-bridge
    virtio-pci < virtio-blk-pci-base virtio-blk-pci-base < virtio-blk-pci
    virtio-pci < virtio-scsi-pci-base virtio-scsi-pci-base < virtio-scsi-pci
    scsi-device < scsi-disk-base scsi-disk-base < scsi-hd scsi-disk-base < scsi-cd
    ide-device < ide-hd ide-device < ide-cd
    usb-device < usb-storage-dev usb-storage-dev < usb-storage
"""
"""Parent and child, in pairs."""
_ABSTRACT: Final = frozenset(
    [
        "object",
        "device",
        "machine",
        "event-loop-base",
        "tls-creds",
        "secret_common",
        "rng-backend",
        "memory-backend",
        "interface",
        "x86-machine",
        "generic-pc-machine",
        "pci-device",
        "scsi-device",
        "ide-device",
        "usb-device",
        "cpu",
        "x86_64-cpu",
        "virtio-pci",
        "base-pci-bridge",
        "pci-ehci-usb",
        "virtio-blk-pci-base",
        "virtio-scsi-pci-base",
        "scsi-disk-base",
        "usb-storage-dev",
    ]
)
_KINDS_OF: Final = {PCI: "pci-device", USB: "usb-device"}
"""What the models of devices are that are not in the chains, by their bus."""
_USER_CREATABLE: Final = "user-creatable"


def _parents() -> dict[str, str | None]:
    words = _CHAINS.replace("<", "").split()
    parents: dict[str, str | None] = {"object": None}
    parents |= dict(zip(words[1::2], words[::2], strict=True))
    parents |= {
        f"{machine['name']}-machine": "generic-pc-machine"
        for machine in machine_types()
        if machine["name"] != "none"
    }
    parents |= {str(model["typename"]): "x86_64-cpu" for model in CPU_MODELS}
    kinds = {model.name: _KINDS_OF.get(model.bus, "device") for model in MODELS.values()}
    return kinds | parents


def list_types(implements: str | None, *, abstract: bool) -> list[dict[str, Any]]:
    """Return ObjectTypeInfo of every type below ``implements``, itself included."""
    parents = _parents()
    return [
        _info(name, parent)
        for name, parent in parents.items()
        if (abstract or name not in _ABSTRACT)
        and (implements is None or implements in _all_of(name, parents))
    ]


def _all_of(name: str, parents: Mapping[str, str | None]) -> Iterator[str]:
    """Yield what a type is: itself, what is above it, and its interface."""
    if name in OBJECT_MODELS:
        yield _USER_CREATABLE
    above: str | None = name
    while above is not None:
        yield above
        above = parents[above]


def _info(name: str, parent: str | None) -> dict[str, Any]:
    info: dict[str, Any] = {"name": name}
    if name in _ABSTRACT:
        info["abstract"] = True
    return info | ({"parent": parent} if parent is not None else {})


def type_properties(name: str, release: Release) -> list[dict[str, str]]:
    """Return ObjectPropertyInfo of a type as a release has it. Raises ``QmpError``."""
    if name not in _parents():
        raise QmpError(f"Class '{name}' not found", ErrorClass.DEVICE_NOT_FOUND)
    found = {"type": "string"}
    if name in OBJECT_MODELS:
        found |= _object_properties(OBJECT_MODELS[name], release)
    elif name in MODELS:
        found |= MODELS[name].properties
    return [{"name": property_, "type": kind} for property_, kind in found.items()]


def _object_properties(model: type[ObjectOptionsBase], release: Release) -> dict[str, str]:
    struct = describe(model)
    assert isinstance(struct, Struct)
    return {
        name: _KINDS.get(member.type.name, "string")
        if isinstance(member.type, Builtin)
        else "string"
        for name, member in struct.members.items()
        if name not in ("qom-type", "id") and exists(member.full_name, release)
    }


_KINDS: Final = {"integer": "int", "boolean": "bool"}


def device_properties(name: str) -> list[dict[str, str]]:
    """Return ObjectPropertyInfo of a device's own properties. Raises ``QmpError``."""
    model = MODELS.get(name)
    if model is None and name not in _parents():
        raise device_not_found(name)
    if model is None:
        raise QmpError("Parameter 'typename' expects a non-abstract device type")
    return [{"name": property_, "type": kind} for property_, kind in model.properties.items()]
