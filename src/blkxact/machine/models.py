"""The device models: what each is plugged into, its properties, and how a disk uses its medium.

QEMU's counterpart: the ``Property`` tables of ``hw/``, ``blkconf_apply_backend_options()`` and its
callers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from blkxact.machine.options import FLASH_DEVICE

from .guest_devices import ALIASES, CONTROLLERS, DEVICES, IDE, PCI, SCSI, USB

Properties = Mapping[str, str]
"""The type of each property, by name."""


def _table(*groups: str) -> Properties:
    return dict(word.split(":") for group in groups for word in group.split())


_MEDIUM: Final = """
    drive:str share-rw:bool write-cache:OnOffAuto backend_defaults:OnOffAuto
    account-failed:OnOffAuto account-invalid:OnOffAuto discard_granularity:size
    logical_block_size:size min_io_size:size opt_io_size:size physical_block_size:size
"""
_POLICY: Final = "rerror:BlockdevOnError werror:BlockdevOnError"
_BOOT: Final = "bootindex:int32"
_SERIAL: Final = "serial:str"
_GEOMETRY: Final = """
    cyls:uint32 heads:uint32 secs:uint32 lcyls:uint32 lheads:uint32 lsecs:uint32
"""
_PCI: Final = """
    acpi-index:uint32 addr:pci-address failover_pair_id:str multifunction:bool rombar:uint32
    romfile:str romsize:uint32 x-pcie-extcap-init:bool x-pcie-lnksta-dllla:bool
"""
_VIRTIO: Final = """
    any_layout:bool event_idx:bool indirect_desc:bool iommu_platform:bool notify_on_empty:bool
    packed:bool queue_reset:bool use-disabled-flag:bool use-started:bool iothread:iothread
"""
_VIRTIO_PCI: Final = """
    aer:bool ats:bool disable-legacy:OnOffAuto disable-modern:bool ioeventfd:bool
    migrate-extra:bool modern-pio-notify:bool page-per-vq:bool vectors:uint32
    virtio-pci-bus-master-bug-migration:bool x-ats-page-aligned:bool
    x-disable-legacy-check:bool x-disable-pcie:bool x-ignore-backend-features:bool
    x-pcie-deverr-init:bool x-pcie-flr-init:bool x-pcie-lnkctl-init:bool x-pcie-pm-init:bool
"""
_SCSI: Final = """
    channel:uint32 device_id:str lun:uint32 max_io_size:uint64 port_index:uint16 port_wwn:uint64
    product:str quirk_mode_page_vendor_specific_apple:bool scsi-id:uint32 scsi_version:int32
    vendor:str ver:str wwn:uint64
"""
_IDE: Final = "model:str unit:uint32 ver:str wwn:uint64"

_FLOPPY_BUS: Final = "floppy-bus"

MACHINE_BUSES: Final = {
    "pci.0": PCI,
    "pcie.0": PCI,
    "ide.0": IDE,
    "ide.1": IDE,
    "floppy-bus.0": _FLOPPY_BUS,
}
"""Buses that the common machines have of themselves, and what goes on them."""

_AHCI_PORTS: Final = 6


class DeviceModel(NamedTuple):
    """One model.

    ``bus`` is what it is plugged into, ``provides`` the kind of bus it has and ``ports`` how many.
    ``virtio`` is the QOM type of the object below it that has the drive, for models that have one.
    A disk is ``resizable`` if it lets others change the size of its medium.
    """

    name: str
    bus: str
    properties: Properties
    provides: str = ""
    ports: int = 1
    virtio: str = ""
    is_disk: bool = True
    removable: bool = False
    has_tray: bool = False
    resizable: bool = True
    takes_read_only: bool = True
    has_io_status: bool = True
    of_guest: bool = False
    """Only a guest would use it: its properties are not looked at."""
    needs: tuple[str, ...] = ()
    """Properties besides ``drive`` without which it cannot be realized."""

    def buses(self, device_id: str | None, number: int) -> list[tuple[str, str]]:
        """Return name and kind of the buses that a device has, the ``number``th of its kind."""
        if not self.provides:
            return []
        if self.provides == self.bus and device_id:
            return [(device_id, self.provides)]  # a bridge
        stem = device_id or self.provides.lower()
        first = 0 if device_id else number
        return [(f"{stem}.{first + port}", self.provides) for port in range(self.ports)]


def _controller(
    name: str, provides: str, *tables: str, ports: int = 1, virtio: str = ""
) -> DeviceModel:
    return DeviceModel(
        name, PCI, _table(*tables), provides, ports=ports, virtio=virtio, is_disk=False
    )


FLASH: Final = DeviceModel(FLASH_DEVICE, "System", _table("drive:str"), has_io_status=False)
"""What holds a PC's firmware; nobody plugs it in."""

_MODELS: Final = [
    _controller(
        "virtio-scsi-pci",
        SCSI,
        _PCI,
        _VIRTIO,
        _VIRTIO_PCI,
        """cmd_per_lun:uint32 hotplug:bool max_sectors:uint32 num_queues:uint32 param_change:bool
        seg_max_adjust:bool virtqueue_size:uint32""",
        virtio="virtio-scsi-device",
    ),
    _controller(
        "pci-bridge",
        PCI,
        _PCI,
        """bus-reserve:uint32 chassis_nr:uint8 io-reserve:size mem-reserve:size msi:OnOffAuto
        pref32-reserve:size pref64-reserve:size shpc:bool""",
    ),
    _controller("ich9-ahci", IDE, _PCI, ports=_AHCI_PORTS),
    _controller("usb-ehci", USB, _PCI, "maxframes:uint32"),
    DeviceModel(
        "virtio-blk-pci",
        PCI,
        _table(
            *(_MEDIUM, _POLICY, _BOOT, _SERIAL, _GEOMETRY, _PCI, _VIRTIO, _VIRTIO_PCI),
            """class:uint32 config-wce:bool discard:bool max-discard-sectors:uint32
            max-write-zeroes-sectors:uint32 num-queues:uint16 queue-size:uint16
            report-discard-granularity:bool request-merging:bool scsi:bool seg-max-adjust:bool
            write-zeroes:bool x-enable-wce-if-config-wce:bool""",
        ),
        virtio="virtio-blk-device",
    ),
    DeviceModel(
        "scsi-hd",
        SCSI,
        _table(
            *(_MEDIUM, _POLICY, _BOOT, _SERIAL, _GEOMETRY, _SCSI),
            "dpofua:bool max_unmap_size:uint64 removable:bool rotation_rate:uint16",
        ),
    ),
    DeviceModel(
        "scsi-cd",
        SCSI,
        _table(
            *(_MEDIUM, _POLICY, _BOOT, _SERIAL, _SCSI),
            """quirk_mode_page_apple_vendor:bool quirk_mode_page_truncated:bool
            quirk_mode_sense_rom_use_dbd:bool""",
        ),
        removable=True,
        has_tray=True,
        resizable=False,
    ),
    DeviceModel(
        "ide-hd",
        IDE,
        _table(
            *(_MEDIUM, _POLICY, _BOOT, _SERIAL, _GEOMETRY, _IDE),
            "bios-chs-trans:BiosAtaTranslation rotation_rate:uint16",
        ),
        takes_read_only=False,
    ),
    DeviceModel(
        "ide-cd",
        IDE,
        _table(_MEDIUM, _POLICY, _BOOT, _SERIAL, _IDE),
        removable=True,
        has_tray=True,
        resizable=False,
    ),
    DeviceModel(
        "nvme",
        PCI,
        _table(
            *(_MEDIUM, _BOOT, _SERIAL, _PCI),
            """aer_max_queued:uint32 aerl:uint8 cmb_size_mb:uint32 ioeventfd:bool
            max_ioqpairs:uint32 mdts:uint8 msix-exclusive-bar:bool msix_qsize:uint16
            num_queues:uint32 smart_critical_warning:uint8 sriov_max_vfs:uint8
            sriov_max_vi_per_vf:uint8 sriov_max_vq_per_vf:uint8 sriov_vi_flexible:uint16
            sriov_vq_flexible:uint16 use-intel-id:bool vsl:uint8 zoned.auto_transition:bool
            zoned.zasl:uint8""",
        ),
        resizable=False,
        has_io_status=False,
        needs=("serial",),
    ),
    DeviceModel(
        "usb-storage",
        USB,
        _table(
            *(_MEDIUM, _POLICY, _BOOT, _SERIAL),
            "attached:bool commandlog:bool msos-desc:bool pcap:str port:str removable:bool",
        ),
    ),
    DeviceModel(
        "floppy",
        _FLOPPY_BUS,
        _table(_MEDIUM, "drive-type:FdcDriveType unit:uint32"),
        removable=True,
        resizable=False,
        has_io_status=False,
    ),
]
_ALIASES: Final = {
    "ahci": "ich9-ahci",
    "virtio-blk": "virtio-blk-pci",
    "virtio-blk-ccw": "virtio-blk-pci",
    "virtio-scsi": "virtio-scsi-pci",
    "virtio-scsi-ccw": "virtio-scsi-pci",
}


def _of_guest(name: str, bus: str, provides: str = "") -> DeviceModel:
    return DeviceModel(name, bus, {}, provides, is_disk=False, of_guest=True)


_GUEST_MODELS: Final = [
    *(_of_guest(name, PCI, bus) for bus, names in CONTROLLERS.items() for name in names.split()),
    *(_of_guest(name, bus) for bus, names in DEVICES.items() for name in names.split()),
]
_BY_NAME: Final = {model.name: model for model in (*_MODELS, *_GUEST_MODELS)}
MODELS: Final[Mapping[str, DeviceModel]] = _BY_NAME | {
    alias: _BY_NAME[name] for alias, name in (*_ALIASES.items(), *ALIASES.items())
}
"""The models by name, and by aliases for a model of another machine."""
