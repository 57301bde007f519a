"""The options that every node has, and what a child takes over from its parent.

Flat names are those of ``qdict.flattened``: ``cache.direct`` for a member of ``cache``.

QEMU's counterpart: ``bdrv_runtime_opts`` and ``bdrv_inherited_options`` in ``block.c``;
``qapi/block-core.json`` (BlockdevOptions).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from blkxact.errors import QmpError
from blkxact.qmp.qdict import flattened

from .types import ChildRole

MEMBERS: Final = (
    "node-name",
    "read-only",
    "auto-read-only",
    "discard",
    "detect-zeroes",
    "cache",
    "force-share",
    "active",
)
"""The members of BlockdevOptions that are common to all drivers, but for ``driver``."""


class NodeOptions(NamedTuple):
    """The values of ``MEMBERS`` for one node."""

    node_name: str | None = None
    read_only: bool = False
    auto_read_only: bool = False
    discard: bool = False
    detect_zeroes: str = "off"
    direct: bool = False
    no_flush: bool = False
    force_share: bool = False
    active: bool = True
    given: Mapping[str, Any] = MappingProxyType({})
    """Those that were given or inherited, by their flat names; the others have their default."""

    @classmethod
    def take(
        cls,
        options: dict[str, Any],
        inherited: Mapping[str, Any],
    ) -> NodeOptions:
        """Remove the common members from ``options`` and return them, defaults filled in.

        ``inherited`` ones, by their flat names, stand where the options have none.
        Raises ``QmpError``; whether they contradict each other is for ``check``.
        """
        given = flattened({name: options.pop(name) for name in MEMBERS if name in options})
        merged = {**inherited, **given}
        if not _flag(inherited, "active", default=True):  # no child of an inactive node is active
            merged["active"] = False
        return cls.read(merged)

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> NodeOptions:
        """Return the common members among options with flat names; raises ``QmpError``."""
        given = {name: options[name] for name in FLAT_NAMES if options.get(name) is not None}
        discard = given.get("discard", "ignore")
        if discard not in {"off", "ignore", "on", "unmap"}:
            raise QmpError("Invalid discard option")
        return cls(
            node_name=given.get("node-name"),
            read_only=_flag(given, "read-only"),
            auto_read_only=_flag(given, "auto-read-only"),
            discard=discard in {"on", "unmap"},
            detect_zeroes=given.get("detect-zeroes", "off"),
            direct=_flag(given, "cache.direct"),
            no_flush=_flag(given, "cache.no-flush"),
            force_share=_flag(given, "force-share"),
            active=_flag(given, "active", default=True),
            given=given,
        )

    def reopened(self, *, discard: bool) -> NodeOptions:
        """Return what a reopen makes of these: ``discard`` stays as it is if it is not given."""
        if "discard" in self.given:
            return self
        return self._replace(discard=discard)

    def passed_to(self, role: ChildRole) -> dict[str, Any]:
        """Return what a child that is defined inside the node's options takes over."""
        return inherited_options(self.given, role)

    def flags(self, *, read_only: bool) -> dict[str, Any]:
        """Return what an image takes over that a command opens for this node.

        QEMU opens it with the node's ``open_flags``.
        """
        return {
            "read-only": read_only,
            "auto-read-only": self.auto_read_only,
            "discard": "unmap" if self.discard else "ignore",
            "cache.direct": self.direct,
            "cache.no-flush": self.no_flush,
        }

    def without_state(self) -> NodeOptions:
        """Return these without ``active``, which only says in what state the node begins."""
        given = {name: value for name, value in self.given.items() if name != "active"}
        return self._replace(active=True, given=given)

    def check(self) -> None:
        """Raise ``QmpError`` if the members of a new node contradict each other."""
        if self.force_share and not self.read_only:
            raise QmpError("force-share=on can only be used with read-only images")
        self.check_detect_zeroes()

    def check_detect_zeroes(self) -> None:
        """Raise ``QmpError`` for ``detect-zeroes: unmap`` without ``discard: unmap``."""
        if self.detect_zeroes == "unmap" and not self.discard:
            raise QmpError(
                "setting detect-zeroes to unmap is not allowed "
                "without setting discard operation to unmap"
            )


FLAT_NAMES: Final = (
    *(name for name in MEMBERS if name != "cache"),
    "cache.direct",
    "cache.no-flush",
)


def inherited_options(parent: Mapping[str, Any], role: ChildRole) -> dict[str, Any]:
    """Return what a child that is defined inside its parent's options takes over from there.

    Both have flat names. A backing file is read-only unless it says otherwise.
    """
    names = ["cache.direct", "cache.no-flush", "force-share", "active"]
    # What may be discarded was decided above, so nodes below let all discards through.
    result: dict[str, Any] = {"discard": "unmap"}
    if role & ChildRole.COW:
        result |= {"read-only": True, "auto-read-only": False}
    else:
        names += ["read-only", "auto-read-only"]
    return result | {name: parent[name] for name in names if name in parent}


_WORDS: Final = dict.fromkeys((True, "on", "yes", "true", "y"), True) | dict.fromkeys(
    (False, "off", "no", "false", "n"), False
)


def _flag(given: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    """Return a boolean member, which a command line may give as a word; raises ``QmpError``."""
    value = _WORDS.get(given.get(name, default))
    if value is None:
        raise QmpError(f"Parameter '{name}' expects 'on' or 'off'")
    return value
