"""Device models that only a guest would use: they can be plugged in, and do nothing.

Management programs give a machine a network card, a display and a console whether a test needs them
or not. Their properties are not looked at. What has buses has them, as disks are plugged in there.

QEMU's counterpart: ``hw/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

PCI: Final = "PCI"
SCSI: Final = "SCSI"
IDE: Final = "IDE"
USB: Final = "usb-bus"

CONTROLLERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        PCI: """
            i82801b11-bridge ioh3420 pci-bridge-seat pcie-pci-bridge pcie-root-port pxb pxb-pcie
            x3130-upstream xio3130-downstream
        """,
        SCSI: """
            am53c974 dc390 lsi53c810 lsi53c895a megasas megasas-gen2 mptsas1068 pvscsi
        """,
        USB: """
            ich9-usb-ehci1 ich9-usb-uhci1 ich9-usb-uhci2 ich9-usb-uhci3 nec-usb-xhci pci-ohci
            piix3-usb-uhci piix4-usb-uhci qemu-xhci
        """,
        "HDA": "ich9-intel-hda intel-hda",
        "virtio-serial-bus": "virtio-serial-pci",
    }
)
"""Models on PCI, by the kind of bus that they have."""

DEVICES: Final[Mapping[str, str]] = MappingProxyType(
    {
        PCI: """
            AC97 ES1370 VGA bochs-display cirrus-vga e1000 e1000e edu i6300esb ivshmem-doorbell
            ivshmem-plain pci-serial pvpanic-pci qxl qxl-vga rtl8139 secondary-vga vfio-pci
            vhost-user-fs-pci vhost-vsock-pci virtio-9p-pci virtio-balloon-pci virtio-crypto-pci
            virtio-gpu-pci virtio-input-host-pci virtio-iommu-pci virtio-keyboard-pci
            virtio-mouse-pci virtio-net-pci virtio-rng-pci virtio-tablet-pci virtio-vga
            vmware-svga vmxnet3
        """,
        USB: """
            usb-audio usb-ccid usb-host usb-hub usb-kbd usb-mouse usb-redir usb-serial usb-tablet
        """,
        "HDA": "hda-duplex hda-micro hda-output",
        "ISA": "i8042 ib700 isa-debugcon isa-parallel isa-serial pvpanic tpm-tis",
        "System": "intel-iommu nvdimm pc-dimm ramfb tpm-crb vmcoreinfo vmgenid",
        "virtio-serial-bus": "virtconsole virtserialport",
    }
)
"""Models without a bus of their own, by the kind of bus that they are plugged into."""

ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "lsi": "lsi53c895a",
        "virtio-balloon": "virtio-balloon-pci",
        "virtio-gpu": "virtio-gpu-pci",
        "virtio-keyboard": "virtio-keyboard-pci",
        "virtio-mouse": "virtio-mouse-pci",
        "virtio-net": "virtio-net-pci",
        "virtio-rng": "virtio-rng-pci",
        "virtio-serial": "virtio-serial-pci",
        "virtio-tablet": "virtio-tablet-pci",
    }
)
"""Other names of models."""
