"""Permissions: what each parent needs of a node, what it allows others, and whether that agrees.

Invariants:

* A node needs of its children what its own parents together need of it, bent by the driver and by
  the role of the child; the graph recomputes it from the top whenever an edge changes.
* Two parents of a node agree if each one's ``perm`` is in the other's ``shared``.
* A node that cannot be written has no parent with a permission to write.

QEMU's counterpart: ``bdrv_default_perms`` and ``bdrv_list_refresh_perms`` in ``block.c``.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from blkxact.errors import QmpError
from blkxact.storage.locks import PERMISSION_NAMES

from .types import ChildRole, Permission

if TYPE_CHECKING:
    from .node import BlockNode

ANY_WRITE = Permission.WRITE | Permission.WRITE_UNCHANGED


def permission_names(perm: Permission) -> str:
    """Return the permissions as messages list them."""
    return ", ".join(name for bit, name in enumerate(PERMISSION_NAMES) if perm >> bit & 1)


@cache
def role_permissions(
    role: ChildRole,
    perm: Permission,
    shared: Permission,
    *,
    writable: bool,
    inactive: bool = False,
) -> tuple[Permission, Permission]:
    """Return ``(perm, shared)`` for a child in ``role`` of a node whose parents have these masks.

    ``writable``: the node itself may be written. ``inactive``: another process may write the image.
    Remembered, because operations on flags are slow and a large transaction asks a hundred thousand
    times about a few combinations.
    """
    if role & ChildRole.FILTERED:
        return perm, shared
    if role & ChildRole.COW:
        perm, shared = _backing_permissions(perm, shared)
    else:
        perm, shared = _storage_permissions(role, perm, shared, writable=writable)
    if inactive:
        shared |= Permission.WRITE | Permission.RESIZE
    return perm, shared


def _backing_permissions(perm: Permission, shared: Permission) -> tuple[Permission, Permission]:
    """Only read it; who may change it depends on who bears that above."""
    tolerated = Permission.CONSISTENT_READ | Permission.WRITE_UNCHANGED
    if shared & Permission.WRITE:
        tolerated |= Permission.WRITE | Permission.RESIZE
    return perm & Permission.CONSISTENT_READ, tolerated


def _storage_permissions(
    role: ChildRole, perm: Permission, shared: Permission, *, writable: bool
) -> tuple[Permission, Permission]:
    """Keep the tables of a format to itself, and let it grow its file when it writes."""
    if role & ChildRole.METADATA:
        # The tables change without a guest's write (a repair, a bitmap), and must be consistent.
        perm |= Permission.CONSISTENT_READ
        if writable:
            perm |= Permission.WRITE | Permission.RESIZE
        shared &= ~(Permission.WRITE | Permission.RESIZE)
    if role & ChildRole.DATA:
        shared &= ~Permission.RESIZE
        # What is unchanged for the guest may still be a new cluster in the file.
        if perm & Permission.WRITE_UNCHANGED:
            perm |= Permission.WRITE
        if perm & Permission.WRITE:
            perm |= Permission.RESIZE
    return perm, shared


def cumulative_permissions(node: BlockNode) -> tuple[Permission, Permission]:
    """Return what all parents of a node together need, and what all of them allow."""
    perm, shared = 0, int(Permission.ALL)
    for its_perm, its_shared in node.parents.kinds:
        perm |= its_perm
        shared &= its_shared
    return Permission(perm), Permission(shared)


def child_masks(
    node: BlockNode, name: str, role: ChildRole, perm: Permission, shared: Permission
) -> tuple[Permission, Permission]:
    """Return the masks of one edge below ``node``, whose driver may not be open yet."""
    driver = node.open_driver
    if driver is None:
        opening = node.opening_as if not node.inactive else None
        needed = (opening and opening.permissions_to_open(role)) or role_permissions(
            role, perm, shared, writable=node.is_writable, inactive=node.inactive
        )
    else:
        needed = driver.child_permissions(name, role, perm, shared)
    return (needed[0], Permission.ALL) if node.force_share else needed


def check_node(node: BlockNode, perm: Permission, shared: Permission) -> None:
    """Raise ``QmpError`` if the parents of ``node`` disagree, or write what cannot be written.

    ``perm`` is what they need together, ``shared`` what all of them allow.
    """
    if int(perm) & ~int(shared):  # needed by one and unshared by one, which may be the same
        _check_parents(node)
    if not perm & ANY_WRITE:
        return
    if node.turns_read_only:
        raise QmpError(f"Read-only block node '{node.node_name}' cannot support read-write users")
    if not node.is_writable:
        raise QmpError("Block node is read-only")
    driver = node.open_driver
    if (
        driver is not None
        and not perm & Permission.RESIZE
        and (node.length % driver.request_alignment)
    ):
        raise QmpError(
            "Cannot get 'write' permission without 'resize': "
            "Image size is not a multiple of request alignment"
        )


def _check_parents(node: BlockNode) -> None:
    if _agree(node):
        return
    # The latest edge is asked first, so that the message names the newcomer as QEMU does.
    edges = list(reversed(node.parents))
    for strict in edges:
        if strict.shared == Permission.ALL:
            continue
        for other in edges:
            refused = other.perm & ~strict.shared
            if other is strict or not refused:
                continue
            name = node.node_name
            raise QmpError(
                f"Permission conflict on node '{name}': permissions "
                f"'{permission_names(refused)}' are both required by "
                f"{other.parent.parent_description()} (uses node '{name}' as '{other.name}' "
                f"child) and unshared by {strict.parent.parent_description()} "
                f"(uses node '{name}' as '{strict.name}' child)."
            )


def _agree(node: BlockNode) -> bool:
    """Return whether no parent needs what another does not share."""
    kinds = node.parents.kinds
    return not any(
        perm & ~shared and (number > 1 or one is not other)
        for one in kinds
        for other, number in kinds.items()
        for perm, shared in [(one[0], other[1])]
    )
