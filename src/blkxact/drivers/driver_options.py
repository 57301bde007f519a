"""From the members of a node's options to what its driver is opened with: its model.

``blockdev-add`` brings models. Names of images and command lines bring members, which may be texts
and in older spellings. Once their driver is known, and its children are open, they become its model
here. Nothing else makes options for a driver.

QEMU's counterpart: the ``QemuOptsList`` of each driver in ``block/``, for the wording of errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from blkxact.errors import QmpError

if TYPE_CHECKING:
    from blkxact.block.driver_api import BlockDriver
    from blkxact.qapi.blockdev import BlockdevOptionsBase

_SIZES: Final = frozenset(
    (
        *("offset", "size", "align", "max-transfer", "opt-write-zero", "max-write-zero"),
        *("opt-discard", "max-discard"),
        *("cache-size", "l2-cache-size", "l2-cache-entry-size", "refcount-cache-size"),
    )
)
"""Members that are numbers in the schema, and sizes, which may have a suffix, in QEMU's drivers."""
_PLAIN_MEMBERS: Final = frozenset({"filename"})


class PlainOptions:
    """Members as attributes of the names that the model has for them; the absent ones are None.

    This is what ``child_roles`` sees before there is a model. And drivers whose class says
    ``opens_plain_names`` are opened with it instead of a model where no option but ``filename`` was
    given: the schema takes longer to load than most images to look at.
    """

    __slots__ = ("_members",)

    def __init__(self, members: Mapping[str, Any]) -> None:
        self._members = members

    def __getattr__(self, name: str) -> Any:
        return self._members.get(name.replace("_", "-"))


class DriverOptions(NamedTuple):
    """What ``driver_options`` makes of members."""

    options: Any
    """The model, or ``PlainOptions``."""
    own: dict[str, Any]
    """The members that it was made of, in the types of the schema."""
    unknown: dict[str, Any]
    """The members that the driver does not have."""


def driver_options(
    driver: type[BlockDriver], members: Mapping[str, Any], children: Mapping[str, str | list[str]]
) -> DriverOptions:
    """Return the options to open ``driver`` with; raises ``QmpError``.

    ``members`` are those that are its own. ``children`` are the names of the open children.
    """
    given = driver.schema_options(members)
    if driver.opens_plain_names and given.keys() <= _PLAIN_MEMBERS:
        return DriverOptions(PlainOptions(given), dict(given), {})
    from blkxact.qapi.blockdev import DRIVER_MODELS  # noqa: PLC0415 - see ``PlainOptions``
    from blkxact.qapi.describe import members_of  # noqa: PLC0415
    from blkxact.qapi.validation import validate_keyval  # noqa: PLC0415

    model = DRIVER_MODELS[driver.format_name]
    known = members_of(model)
    own = {name: value for name, value in given.items() if name in known}
    unknown = {name: value for name, value in given.items() if name not in known}
    options: BlockdevOptionsBase = validate_keyval(
        model,
        {
            **with_sizes(own),
            **{name: child for name, child in children.items() if name in known},
            "driver": driver.format_name,
        },
    )
    wire = options.to_wire()
    return DriverOptions(options, {name: wire[name] for name in own}, unknown)


def with_sizes(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return members, and those within, with the texts of sizes as numbers; raises ``QmpError``."""
    from blkxact.qapi.strings import parse_size  # noqa: PLC0415 - with the schema

    result = dict(members)
    for name, value in members.items():
        if isinstance(value, Mapping):
            result[name] = with_sizes(value)
        elif name in _SIZES and isinstance(value, str):
            result[name] = parse_size(value)
            if result[name] is None:
                raise QmpError(f"Parameter '{name}' expects a non-negative number below 2^64")
    return result
