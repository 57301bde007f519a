"""Since and until which release of QEMU each command and member exists: the one table of it.

Models and handlers are those of the newest release. No other module compares releases: what does
not exist in the one that is emulated is taken out of the table of commands, of requests (``is
unexpected``), of results, of the schema and of the texts of errors.

A name is a command's, or ``STRUCT.MEMBER`` with the struct that declares the member, a model or one
of ``returns.py``, or that of a struct which is a branch of a union. To add a difference, add the
member to its model or type, let the handler do it, and add a row here. What releases have in common
but do differently is a behaviour: it has a row here as well, and code asks ``behaves`` by its name.

QEMU's counterpart: ``Since:`` in ``qapi/*.json``, ``docs/about/removed-features.rst``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from blkxact.errors import QmpError
from blkxact.runtime.release import Release

Version = tuple[int, int]
"""Major and minor number."""

SINCE: Final[Mapping[str, Version]] = MappingProxyType(
    {
        "BackupCommon.discard-source": (9, 1),
        "BackupCommon.on-cbw-error": (10, 1),
        "BackupPerf.min-cluster-size": (9, 2),
        "BlockCommit.backing-mask-protocol": (9, 0),
        "BlkdebugInjectErrorOptions.delay-ns": (11, 1),
        "BlockDeviceInfo.active": (10, 0),
        "BlockExportOptionsBase.allow-inactive": (10, 0),
        "BlockdevOptionsBase.active": (10, 0),
        "blockdev-set-active": (10, 0),
        "device-sync-config": (9, 2),
        "qom-list-get": (10, 1),
        "query-accelerators": (10, 2),
        "x-accel-stats": (10, 1),
        "BlockDeviceInfo.children": (10, 1),
        "BlockStream.backing-mask-protocol": (9, 0),
        "BlockJobInfoMirror.actively-synced": (8, 2),
        "BlockdevOptionsCbw.min-cluster-size": (9, 2),
        "BlockdevOptionsQcow2.discard-no-unref": (8, 1),
        "BlockDeviceStats.failed_zone_append_operations": (8, 1),
        "BlockDeviceStats.invalid_zone_append_operations": (8, 1),
        "BlockDeviceStats.zone_append_bytes": (8, 1),
        "BlockDeviceStats.zone_append_latency_histogram": (8, 1),
        "BlockDeviceStats.zone_append_merged": (8, 1),
        "BlockDeviceStats.zone_append_operations": (8, 1),
        "BlockDeviceStats.zone_append_total_time_ns": (8, 1),
        "BlockDeviceTimedStats.avg_zone_append_latency_ns": (8, 1),
        "BlockDeviceTimedStats.avg_zone_append_queue_depth": (8, 1),
        "BlockDeviceTimedStats.max_zone_append_latency_ns": (8, 1),
        "BlockDeviceTimedStats.min_zone_append_latency_ns": (8, 1),
        "BlockLatencyHistogramSet.boundaries-zap": (8, 1),
        "BlockdevMirror.target-is-zero": (10, 1),
        "ImageInfo.limits": (10, 2),
        "ImageInfoSpecificFileWrapper": (8, 0),
        "IOThreadInfo.poll-weight": (11, 1),
        "InetSocketAddress.keep-alive-count": (10, 1),
        "InetSocketAddress.keep-alive-idle": (10, 1),
        "InetSocketAddress.keep-alive-interval": (10, 1),
        "IothreadProperties.poll-weight": (11, 1),
        "MemoryBackendFileProperties.offset": (8, 1),
        "MemoryBackendFileProperties.rom": (8, 2),
        "NbdServerOptionsBase.handshake-max-seconds": (10, 0),
        "QueryBlock.flat": (11, 0),
        "QueryMachines.compat-props": (9, 1),
        "block-job-change": (8, 2),
        "x-query-interrupt-controllers": (9, 1),
    }
)
"""The first release that has it."""

UNTIL: Final[Mapping[str, Version]] = MappingProxyType(
    {
        "SecretProperties.loaded": (9, 2),
        "StatusInfo.singlestep": (9, 0),
        "TlsCredsX509Properties.loaded": (9, 2),
        "TraceEventGetState.vcpu": (9, 1),
        "TraceEventInfo.vcpu": (9, 1),
        "TraceEventSetState.vcpu": (9, 1),
        "x-query-opcount": (10, 1),
        "x-query-profile": (8, 1),
        "x-query-rdma": (9, 1),
    }
)
"""The first release that has it no more."""

OPTION_SINCE: Final[Mapping[str, Version]] = MappingProxyType(
    {
        "chardev.reconnect-ms": (9, 2),
        "run-with": (8, 1),
        "run-with.chroot": (8, 1),
        "run-with.exit-with-parent": (10, 2),
        "run-with.user": (9, 1),
    }
)
"""Options of qemu-system's command line, and their parameters, by their first release."""

OPTION_UNTIL: Final[Mapping[str, Version]] = MappingProxyType(
    {
        "async-teardown": (9, 0),
        "chardev.reconnect": (10, 2),
        "chroot": (9, 0),
        "runas": (10, 0),
    }
)
"""The first release that has it no more."""

KINDS_SINCE: Final[Mapping[str, tuple[str, Version]]] = MappingProxyType(
    {"BlockExportOptionsBase.iothread": ("list", (11, 0))}
)
"""Members that take a kind of JSON value (``common.json_kind``) only from a release on."""

MANDATORY_SINCE: Final[Mapping[str, Version]] = MappingProxyType(
    {"BlockDeviceInfo.node-name": (10, 1)}
)
"""Members of results that may be missing before."""

TAG_SINCE: Final[Mapping[str, Version]] = MappingProxyType({"BlockJobInfo.type": (8, 2)})
"""Members that choose the branch of a result; before they were strings and there were none."""

FEATURES_SINCE: Final[Mapping[str, Version]] = MappingProxyType(
    {
        "block-job-complete": (10, 1),
        "block-job-dismiss": (10, 1),
        "block-job-finalize": (10, 1),
        "block-job-pause": (10, 1),
        "block-job-resume": (10, 1),
        "query-kvm": (11, 0),
    }
)
"""Commands whose features (``features.py``) came later than they themselves."""


BLKDEBUG_DELAYS: Final = "rules of blkdebug without an error concern requests, too"
CBW_ALWAYS_READS: Final = "copy-before-write needs to read what is below it, also without a writer"
COMMIT_RESTORES_BASE: Final = "an active commit that fails leaves its base read-only if it was"
COMMIT_UNMAPS_ZEROES: Final = "a commit below the active layer unmaps what reads as zeroes"
COMPLETION_MODE_FIRST: Final = "whether actions take the completion mode is asked before any begins"
COPY_BITMAP_ON_FILTER: Final = "the bitmap of what a backup has to copy is shown at its filter"
DISCARD_CONCERNS_ROOTS: Final = (
    "zeroes from devices, exports and jobs unmap only with discard=unmap"
)
IOTHREAD_DEFAULTS_ARE_SHOWN: Final = "an iothread's number that is set to 0 reads as its default"
KEEP_ALIVE_WHEN_LISTENING: Final = "a server's address may have keep-alive"
MIRROR_BITMAP_ON_TOP: Final = "the bitmap of a mirror is shown at its filter"
MIRROR_SKIPS_ZEROES: Final = "a mirror writes no zeroes where its target reads as zeroes"
NBD_EXTENDED_HEADERS: Final = "the NBD server offers extended headers"
SNAPSHOT_COLUMNS_APART: Final = "no column of a list of snapshots has a space in it"
TWO_DRAINS_AT_END: Final = "a machine drains when it stops, and when its jobs are cancelled"

TYPED_PROPERTIES: Final = "device_add takes properties of the right types only"
CONTROLLERS_TAKE_BUSY_DISKS: Final = "a job's disk can be plugged into a virtio-scsi controller"
DEVICE_IDS_CHECKED: Final = (
    "device_add refuses an id that is not well-formed, with properties typed"
)

BEHAVIOUR_SINCE: Final[Mapping[str, Version]] = MappingProxyType(
    {
        COMPLETION_MODE_FIRST: (8, 1),
        TWO_DRAINS_AT_END: (8, 1),
        MIRROR_BITMAP_ON_TOP: (8, 2),
        NBD_EXTENDED_HEADERS: (8, 2),
        SNAPSHOT_COLUMNS_APART: (9, 0),
        CBW_ALWAYS_READS: (9, 1),
        COMMIT_RESTORES_BASE: (9, 1),
        COPY_BITMAP_ON_FILTER: (9, 1),
        DISCARD_CONCERNS_ROOTS: (9, 1),
        KEEP_ALIVE_WHEN_LISTENING: (10, 1),
        COMMIT_UNMAPS_ZEROES: (10, 1),
        MIRROR_SKIPS_ZEROES: (10, 1),
        IOTHREAD_DEFAULTS_ARE_SHOWN: (11, 1),
        BLKDEBUG_DELAYS: (11, 1),
        TYPED_PROPERTIES: (9, 2),
        CONTROLLERS_TAKE_BUSY_DISKS: (10, 0),
        DEVICE_IDS_CHECKED: (11, 1),
    }
)
"""What a release does in another way than those before."""


def behaves(behaviour: str, release: Release) -> bool:
    """Return whether a release does something in the newer way."""
    return release[:2] >= BEHAVIOUR_SINCE[behaviour]


class Wording(NamedTuple):
    """What an error of a command said before a release."""

    since: Version
    """The first release with the text that handlers give."""
    pattern: str
    """Matches that text."""
    before: str
    """Replaces what was matched."""


_ANY_DEVICE: Final = Wording((9, 0), r"(?<= is not a )(?=device$)", "hotpluggable ")

WORDINGS: Final[Mapping[str, Wording]] = MappingProxyType(
    dict.fromkeys(
        (
            "block-latency-histogram-set",
            "block_set_io_throttle",
            "blockdev-change-medium",
            "blockdev-close-tray",
            "blockdev-insert-medium",
            "blockdev-open-tray",
            "blockdev-remove-medium",
            "device_del",
            "eject",
        ),
        _ANY_DEVICE,
    )
    | {
        "object-del": Wording(
            (11, 1),
            r"^Cannot delete throttle group '(.*)' with active references$",
            r"object '\1' is in use, can not be deleted",
        ),
        "block_resize": Wording((9, 0), r"^Node '(.*)' is busy: .*", r"Device '\1' is in use"),
        "transaction": Wording(
            (8, 1), r"(?<= does not support )transaction(?= property )", "Transaction"
        ),
    }
)
"""Errors by the command that they are of."""


def reword(command: str, error: QmpError, release: Release) -> None:
    """Give the error of a command the text that it has in a release."""
    wording = WORDINGS.get(command)
    if wording is not None and release[:2] < wording.since:
        error.desc = re.sub(wording.pattern, wording.before, error.desc)
        error.args = (error.desc,)


def exists(name: str, release: Release) -> bool:
    """Return whether a command or a member exists in a release."""
    return _is_between(SINCE.get(name), release, UNTIL.get(name))


def has_option(name: str, release: Release) -> bool:
    """Return whether the command line has an option, or a parameter of one, in a release."""
    return _is_between(OPTION_SINCE.get(name), release, OPTION_UNTIL.get(name))


def _is_between(since: Version | None, release: Release, until: Version | None) -> bool:
    version = release[:2]
    return (since is None or version >= since) and (until is None or version < until)


def absent_kind(member: str, release: Release) -> str | None:
    """Return the kind of JSON value that a member does not take yet in a release."""
    kind, since = KINDS_SINCE.get(member, ("", (0, 0)))
    return kind if release[:2] < since else None


def has_features(command: str, release: Release) -> bool:
    """Return whether a command has its features in a release."""
    since = FEATURES_SINCE.get(command)
    return since is None or release[:2] >= since


def chooses(tag: str, release: Release) -> bool:
    """Return whether a member chooses the branch of a union in a release."""
    since = TAG_SINCE.get(tag)
    return since is None or release[:2] >= since


def is_optional(member: str, release: Release, *, optional: bool) -> bool:
    """Return whether a member is optional in a release; ``optional`` in the newest one."""
    since = MANDATORY_SINCE.get(member)
    return optional or (since is not None and release[:2] < since)


def absent_members(release: Release) -> frozenset[str]:
    """Return the names of members that some struct does not have, or not as today."""
    rows = [row for row in SINCE.keys() | UNTIL.keys() if not exists(row, release)]
    rows += [row for row in KINDS_SINCE if absent_kind(row, release)]
    return frozenset(row.partition(".")[2] for row in rows) - {""}


def mentions(value: Any, names: frozenset[str]) -> bool:
    """Return whether a JSON value has, at any depth, a member with one of these names."""
    if isinstance(value, dict):
        if not names.isdisjoint(value):
            return True
        value = value.values()
    elif not isinstance(value, list):
        return False
    # Most are scalars, which need no call.
    return any(isinstance(one, dict | list) and mentions(one, names) for one in value)
