"""What the command line says of the machine: ``-machine``, ``-accel``, ``-smp``, ``-m``, ….

It has no effect but that queries report it. Of other options of the guest only the members' names
and types are checked.

QEMU's counterpart: ``qemu_apply_machine_options()``, ``parse_memory_options()``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Final

from blkxact.machine.options import MachineOptions

from .errors import CliError
from .guest_members import SIZE_HINT, check_members
from .keyval import parse_opts

DEFAULT_TYPE: Final = "pc"
DEFAULT_MEMORY: Final = 128 << 20
"""Bytes."""
_USUAL: Final = frozenset({"none", "pc", "q35"})
_ACCELERATORS: Final = frozenset({"kvm", "qtest", "tcg", "xen"})
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def _host_has_kvm() -> bool:
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


class MachineWords:
    """The words so far; the last of each kind counts."""

    def __init__(self, *, host_has_kvm: Callable[[], bool] = _host_has_kvm) -> None:
        self._host_has_kvm = host_has_kvm
        self._accels: list[str] = []
        self._type = DEFAULT_TYPE
        self._name: str | None = None
        self._uuid: str | None = None
        self._cpus = 1
        self._memory = DEFAULT_MEMORY
        self._take: dict[str, Callable[[str], None]] = {
            "machine": self._take_machine,
            "M": self._take_machine,
            "accel": self._take_accel,
            "enable-kvm": lambda _text: self._accels.append("kvm"),
            "name": self._take_name,
            "uuid": self._take_uuid,
            "smp": self._take_smp,
            "m": self._take_memory,
        }

    def take(self, option: str, text: str) -> None:
        """Read an option's argument; raises ``CliError``."""
        check_members(option, text)
        if option in self._take:
            self._take[option](text)

    def options(self) -> MachineOptions:
        """Return what all words together say. Raises ``CliError`` for an unknown machine."""
        if self._type not in _USUAL and self._type not in _all_types():
            raise CliError(
                "unsupported machine type", hint="Use -machine help to list supported machines"
            )
        given = MachineOptions(
            self._type,
            self._name,
            cpus=0 if self._type == "none" else self._cpus,
            memory=self._memory,
            accelerator=self._accelerator(),
        )
        if self._uuid is None:
            return given
        return given._replace(uuid=self._uuid)

    def _take_machine(self, text: str) -> None:
        members = parse_opts(text, implied_key="type")
        self._type = members.get("type", self._type)
        if "accel" in members:
            names = members["accel"].split(":")
            if _ACCELERATORS.isdisjoint(names):
                raise CliError(f"invalid accelerator {names[0]}", is_located=True)
            self._accels.extend(names)

    def _take_accel(self, text: str) -> None:
        name = parse_opts(text, implied_key="accel").get("accel", "")
        if name not in _ACCELERATORS:
            raise CliError(f"invalid accelerator {name}")
        self._accels.append(name)

    @property
    def has_real_accelerator(self) -> bool:
        """Whether one is named that is not ``qtest``; QEMUs without that take the next."""
        return any(name != "qtest" for name in self._accels)

    def _accelerator(self) -> str:
        """Return the first of the accelerators if the host has it; all others are ``tcg``."""
        first = self._accels[0] if self._accels else ""
        if first == "qtest" or (first == "kvm" and self._host_has_kvm()):
            return first
        return "tcg"

    def _take_name(self, text: str) -> None:
        self._name = parse_opts(text, implied_key="guest").get("guest", self._name)

    def _take_uuid(self, text: str) -> None:
        if not _UUID.fullmatch(text):
            raise CliError("failed to parse UUID string: wrong format")
        self._uuid = text.lower()

    def _take_smp(self, text: str) -> None:
        self._cpus = int(parse_opts(text, implied_key="cpus").get("cpus", "1"), 0)

    def _take_memory(self, text: str) -> None:
        size = parse_opts(text, implied_key="size").get("size")
        if size is None:
            return
        from blkxact.qapi.sizes import parse_size  # noqa: PLC0415 - it loads fractions

        memory = parse_size(size, "m")
        if memory is None:
            raise CliError(
                "Parameter 'size' expects a non-negative number below 2^64", hint=SIZE_HINT
            )
        self._memory = memory


def _all_types() -> set[str]:
    from blkxact.machine.machine_types import machine_types  # noqa: PLC0415 - seldom needed

    return {info["name"] for info in machine_types()}
