"""The options that every node has, and what a child takes over from its parent.

QEMU's counterpart: ``bdrv_runtime_opts`` and ``bdrv_inherited_options`` in ``block.c``;
``qapi/block-core.json`` (BlockdevOptions).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blkxact.errors import QmpError

from .driver_api import ChildRole


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """The members of BlockdevOptions that are common to all drivers."""

    node_name: str | None = None
    read_only: bool = False
    auto_read_only: bool = False
    discard: bool = False
    detect_zeroes: str = "off"
    direct: bool = False
    no_flush: bool = False
    force_share: bool = False

    @classmethod
    def take(
        cls,
        options: dict[str, Any],
        parent: NodeOptions | None = None,
        role: ChildRole = ChildRole.PRIMARY,
    ) -> NodeOptions:
        """Remove the common members from ``options`` and return them, defaults filled in.

        A child inline in its parent's options takes over the parent's; a backing file is read-only
        unless it says otherwise. Raises ``QmpError`` for members that contradict each other.
        """
        base = parent or cls()
        cache = options.pop("cache", None) or {}
        backing = bool(role & ChildRole.COW)
        discard = options.pop("discard", None)
        result = cls(
            node_name=options.pop("node-name", None),
            read_only=_flag(options.pop("read-only", None), backing or base.read_only),
            auto_read_only=_flag(
                options.pop("auto-read-only", None), not backing and base.auto_read_only
            ),
            # What may be discarded was decided above, so nodes below let all discards through.
            discard=parent is not None if discard is None else _is_unmap(discard),
            detect_zeroes=options.pop("detect-zeroes", None) or "off",
            direct=_flag(cache.get("direct"), base.direct),
            no_flush=_flag(cache.get("no-flush"), base.no_flush),
            force_share=_flag(options.pop("force-share", None), base.force_share),
        )
        result.check()
        return result

    def check(self) -> None:
        """Raise ``QmpError`` for members that contradict each other."""
        if self.force_share and not self.read_only:
            raise QmpError("force-share=on can only be used with read-only images")
        if self.detect_zeroes == "unmap" and not self.discard:
            raise QmpError(
                "setting detect-zeroes to unmap is not allowed "
                "without setting discard operation to unmap"
            )


def _is_unmap(discard: str) -> bool:
    if discard not in {"off", "ignore", "on", "unmap"}:
        raise QmpError("Invalid discard option")
    return discard in {"on", "unmap"}


def _flag(value: Any, default: bool) -> bool:
    """Return a boolean member, which a ``json:`` name may give as a word."""
    if value is None:
        return default
    return value in {True, "on", "yes", "true"}
