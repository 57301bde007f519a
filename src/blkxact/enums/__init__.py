"""The enumerations of QAPI. Each stands once; the models and the code use the same members.

A member is a string and equal to its name on the wire, so it may be sent as it is. Names, values
and their order are QEMU's (``qapi/*.json``), less what blkxact does not have. ``ErrorClass`` is in
``errors.py``; the drivers' names (BlockdevDriver) are in the models of their options.

To make an enumeration takes longer than to load a module, and a start needs few: so the module that
has one is loaded when it is first imported from here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from .base import QapiEnum as QapiEnum

if TYPE_CHECKING:
    from .failures import *  # noqa: F403 - what INDEX lists
    from .images import *  # noqa: F403 - what INDEX lists
    from .jobs import *  # noqa: F403 - what INDEX lists
    from .monitor import *  # noqa: F403 - what INDEX lists
    from .options import *  # noqa: F403 - what INDEX lists

INDEX: Final = {
    "monitor": (
        "OnOffAuto",
        "QMPCapability",
        "MonitorMode",
        "ShutdownCause",
        "QCryptoTLSCredsEndpoint",
        "BlockExportRemoveMode",
    ),
    "jobs": (
        "JobType",
        "JobStatus",
        "JobVerb",
        "MirrorSyncMode",
        "BitmapSyncMode",
        "MirrorCopyMode",
        "NewImageMode",
        "ActionCompletionMode",
        "TransactionStatus",
        "BitmapOutcome",
    ),
    "failures": (
        "BlockdevOnError",
        "BlockErrorAction",
        "BlockDeviceIoStatus",
        "IoOperationType",
    ),
    "images": (
        "PreallocMode",
        "Qcow2CompressionType",
        "BlkdebugIOType",
        "BlkdebugEvent",
    ),
    "options": (
        "BlockdevChangeReadOnlyMode",
        "BlockdevDiscardOptions",
        "BlockdevDetectZeroesOptions",
        "BlockdevAioOptions",
        "BlockPermission",
        "BlockdevQcow2Version",
        "Qcow2OverlapCheckMode",
        "QuorumReadPattern",
        "QuorumOpType",
        "OnCbwError",
    ),
}
"""The module that has each."""


def __getattr__(name: str) -> Any:
    """Load an enumeration, and those that stand beside it."""
    for module, names in INDEX.items():
        if name in names:
            found = vars(import_module(f".{module}", __name__))
            globals().update((one, found[one]) for one in names)
            return found[name]
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
