"""Objects that are no devices: iothreads and throttle groups, with their properties.

QEMU's counterpart: ``qom/object.c``, ``iothread.c``, the properties of ``block/throttle-groups.c``.
"""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod
from collections.abc import Mapping, MutableMapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from blkxact.block.names import is_well_formed
from blkxact.errors import QmpError
from blkxact.qapi.limits import INT64_MAX
from blkxact.qapi.qom import (
    IothreadProperties,
    MemoryBackendProperties,
    ObjectOptionsBase,
    SecretProperties,
    ThrottleGroupProperties,
    ThrottleLimitsValue,
    TlsCredsX509Properties,
)
from blkxact.qapi.validation import validate
from blkxact.qapi.versions import IOTHREAD_DEFAULTS_ARE_SHOWN, behaves, exists
from blkxact.runtime.release import DEFAULT_RELEASE, Release
from blkxact.runtime.throttle.group import ThrottleGroups
from blkxact.runtime.throttle.limits import LENGTH_MAX, MEMBERS, ThrottleLimits, check_lengths

from .qom_tree import QomObject, property_not_found


class ObjectHost(NamedTuple):
    """What objects need of the emulator."""

    groups: ThrottleGroups
    release: Release = DEFAULT_RELEASE


class Object(ABC):
    """One object. Properties have their wire names."""

    qom_type: str
    children: Mapping[str, QomObject] = MappingProxyType({})
    """Objects below it: none."""

    def __init__(self, options: ObjectOptionsBase) -> None:
        self.options = options
        """What it was made from."""

    @abstractmethod
    def properties(self) -> Mapping[str, str]:
        """Return the types of the properties, ``type`` left out."""

    @abstractmethod
    def read(self, name: str) -> Any:
        """Return the value of one of ``properties``."""

    @abstractmethod
    def write(self, name: str, value: Any) -> None:
        """Change one of ``properties``. Raises ``QmpError``."""

    def delete(self) -> None:  # noqa: B027 - most can be deleted at any time
        """End the object. Raises ``QmpError`` while it is in use."""

    def get(self, name: str) -> Any:
        """Return the value of a property (qom-get). Raises ``QmpError``."""
        self._check(name)
        return self.read(name)

    async def set(self, name: str, value: Any) -> None:
        """Change a property (qom-set). Raises ``QmpError``."""
        self._check(name)
        self.write(name, value)

    def _check(self, name: str) -> None:
        if name not in self.properties():
            raise property_not_found(self, name)


_IOTHREAD_DEFAULTS: Final = {
    "poll-max-ns": 32768,
    "poll-grow": 0,
    "poll-shrink": 0,
    "poll-weight": 0,
    "aio-max-batch": 0,
    "thread-pool-min": 0,
    "thread-pool-max": 64,
}


_IOTHREAD_INFO: Final = ("poll-max-ns", "poll-grow", "poll-shrink", "poll-weight", "aio-max-batch")
_MAX_POLL_WEIGHT: Final = 63
_FOR_ZERO: Final = {"poll-grow": 2, "poll-shrink": 2, "poll-weight": 3}
"""What newer releases show of numbers for which the system's default is chosen."""


class Iothread(Object):
    """An iothread: the event loop does its work, its properties are only kept."""

    qom_type = "iothread"

    def __init__(self, options: IothreadProperties, host: ObjectHost) -> None:
        super().__init__(options)
        release = host.release
        self._shows_defaults = behaves(IOTHREAD_DEFAULTS_ARE_SHOWN, release)
        self._values: dict[str, int] = {}
        given = options.to_wire()
        for name, default in _IOTHREAD_DEFAULTS.items():
            if exists(f"IothreadProperties.{name}", release):
                self.write(name, given.get(name, default))

    def describe(self) -> dict[str, int]:
        """Return the members of IOThreadInfo that can be set."""
        return {name: self._values[name] for name in _IOTHREAD_INFO if name in self._values}

    def properties(self) -> Mapping[str, str]:
        """Return the numbers."""
        return dict.fromkeys(self._values, "int")

    def read(self, name: str) -> int:
        """Return a number."""
        return self._values[name]

    def write(self, name: str, value: Any) -> None:
        """Change a number."""
        if not isinstance(value, int) or isinstance(value, bool):
            raise QmpError(f"Invalid parameter type for '{name}', expected: integer")
        most = _MAX_POLL_WEIGHT if name == "poll-weight" else INT64_MAX
        if not 0 <= value <= most:
            raise QmpError(f"{name} value must be in range [0, {most}]")
        if self._shows_defaults and value == 0:
            value = _FOR_ZERO.get(name, 0)
        self._values[name] = value


class ThrottleGroupObject(Object):
    """A throttle group: ``limits`` may be changed at any time, all at once."""

    qom_type = "throttle-group"

    def __init__(self, options: ThrottleGroupProperties, host: ObjectHost) -> None:
        super().__init__(options)
        self._groups = groups = host.groups
        limits = ThrottleLimits().changed(_single_properties(options))
        if options.limits is not None:
            limits = _changed(limits, options.limits.to_wire())
        self._group = groups.create(options.id, limits)

    def delete(self) -> None:
        """Raise ``QmpError`` while a node or a device is in the group."""
        self._groups.delete(self._group.name)

    def properties(self) -> Mapping[str, str]:
        """Return ``limits``, and each of them alone."""
        return {"limits": "ThrottleLimits", **{f"x-{name}": "int" for name in MEMBERS}}

    def read(self, name: str) -> Any:
        """Return all limits, or one."""
        members = self._group.limits.members()
        return members if name == "limits" else members[name.removeprefix("x-")]

    def write(self, name: str, value: Any) -> None:
        """Change ``limits``; those that are not named stay as they are."""
        if name != "limits":
            raise QmpError("Property cannot be set after initialization")
        given = validate(ThrottleLimitsValue, {"limits": value}).limits.to_wire()
        self._group.configure(_changed(self._group.limits, given))


class TlsCredentials(Object):
    """Certificates, which are checked once here and read again by each server that is started."""

    qom_type = "tls-creds-x509"

    def __init__(self, options: TlsCredsX509Properties, host: ObjectHost) -> None:
        super().__init__(options)
        del host
        _x509_context(options)  # refused here if it cannot be used
        self._values = options.with_defaults()
        for name in ("qom-type", "id"):
            del self._values[name]

    def properties(self) -> Mapping[str, str]:
        """Return the options."""
        kinds = {"endpoint": "QCryptoTLSCredsEndpoint"}
        return {
            name: "bool" if isinstance(value, bool) else kinds.get(name, "string")
            for name, value in self._values.items()
        }

    def read(self, name: str) -> Any:
        """Return an option; one that was not given is empty."""
        value = self._values[name]
        return "" if value is None else value

    def write(self, name: str, value: Any) -> None:
        """Refuse: the certificates are loaded."""
        del name, value
        raise QmpError("Property cannot be set after initialization")


def _single_properties(options: ThrottleGroupProperties) -> dict[str, int]:
    """Return the limits that were given as ``x-`` properties; raises ``QmpError``."""
    members = {}
    for name, value in options.to_wire().items():
        if name.startswith("x-"):
            if value < 0:
                raise QmpError("Property values cannot be negative")
            if name.endswith("-length") and value > LENGTH_MAX:
                # The missing blank is QEMU's.
                raise QmpError(f"{name} value must be in therange [0, {LENGTH_MAX}]")
            members[name.removeprefix("x-")] = value
    return members


def _changed(limits: ThrottleLimits, members: Mapping[str, int]) -> ThrottleLimits:
    check_lengths(members)
    result = limits.changed(members)
    result.check()
    return result


class _Kept(Object):
    """An object that is of no use without a guest: its properties are kept."""

    def __init__(self, options: ObjectOptionsBase, host: ObjectHost) -> None:
        super().__init__(options)
        del host
        self.qom_type = options.qom_type
        self._values = {
            name: value
            for name, value in options.with_defaults().items()
            if value is not None and name not in ("qom-type", "id")
        }

    def properties(self) -> Mapping[str, str]:
        """Return what was given, and what has a default."""
        return {name: _KINDS.get(type(value), "string") for name, value in self._values.items()}

    def read(self, name: str) -> Any:
        """Return a value."""
        return self._values[name]

    def write(self, name: str, value: Any) -> None:
        """Refuse."""
        del value
        raise QmpError(f"cannot change property '{name}' of {self.qom_type}.")


_KINDS: Final = {bool: "bool", int: "int"}


class Secret(_Kept):
    """A secret."""

    def __init__(self, options: SecretProperties, host: ObjectHost) -> None:
        if options.file is not None and options.data is not None:
            raise QmpError("'file' and 'data' are mutually exclusive")
        if options.file is None and options.data is None:
            raise QmpError("Either 'file' or 'data' must be provided")
        super().__init__(options, host)


class MemoryBackend(_Kept):
    """Memory of the guest."""

    def __init__(self, options: MemoryBackendProperties, host: ObjectHost) -> None:
        if not options.size:
            raise QmpError(
                f"property 'size' of {options.qom_type} doesn't take value '{options.size}'"
            )
        super().__init__(options, host)


_TYPES: Final[Mapping[str, type[Any]]] = {
    one.qom_type: one for one in (Iothread, ThrottleGroupObject, TlsCredentials)
} | {
    "memory-backend-file": MemoryBackend,
    "memory-backend-memfd": MemoryBackend,
    "memory-backend-ram": MemoryBackend,
    "rng-builtin": _Kept,
    "rng-random": _Kept,
    "secret": Secret,
}


def add_object(
    objects: MutableMapping[str, Object], options: ObjectOptionsBase, host: ObjectHost
) -> None:
    """Make an object and put it among the others (object-add). Raises ``QmpError``."""
    if not is_well_formed(options.id):
        raise QmpError("Parameter 'id' expects an identifier")
    if options.id in objects:
        raise QmpError(
            f"attempt to add duplicate property '{options.id}' to object (type 'container')"
        )
    made = _TYPES[options.qom_type](options, host)
    assert isinstance(made, Object)
    objects[options.id] = made


def tls_context(objects: Mapping[str, Object], name: str, endpoint: str) -> ssl.SSLContext:
    """Return what encrypts with the credentials of that id. Raises ``QmpError``.

    ``endpoint`` is the side that they must be for: ``server`` or ``client``.
    """
    found = objects.get(name)
    if found is None:
        raise QmpError(f"No TLS credentials with id '{name}'")
    credentials = found.options
    if not isinstance(credentials, TlsCredsX509Properties):
        raise QmpError(f"Object with id '{name}' is not TLS credentials")
    if credentials.endpoint != endpoint:
        raise QmpError(f"Expected TLS credentials for a {endpoint} endpoint")
    return _x509_context(credentials)


def _x509_context(options: TlsCredsX509Properties) -> ssl.SSLContext:
    from blkxact.storage.tls import x509_context  # noqa: PLC0415 - few use TLS

    return x509_context(options)
