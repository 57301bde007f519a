"""What commands return, as ``query-qmp-schema`` describes it.

``RETURNS`` has the type of each command's result; a command that is not there returns an empty
object. ``TYPES`` has these types in the notation of ``notation.py``; enumerations that requests
have too are in ``enums``. Results are not validated, but the tests check all that they get.

QEMU's counterpart: the types that ``qapi/*.json`` names in ``'returns'``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

RETURNS: Final[Mapping[str, str]] = {
    "add-fd": "AddfdInfo",
    "blockdev-snapshot-delete-internal-sync": "SnapshotInfo",
    "device-list-properties": "[ObjectPropertyInfo]",
    "human-monitor-command": "str",
    "qom-get": "any",
    "qom-list": "[ObjectPropertyInfo]",
    "qom-list-get": "[ObjectPropertiesValues]",
    "qom-list-properties": "[ObjectPropertyInfo]",
    "qom-list-types": "[ObjectTypeInfo]",
    "query-accelerators": "AcceleratorInfo",
    "query-block": "[BlockInfo]",
    "query-block-exports": "[BlockExportInfo]",
    "query-block-jobs": "[BlockJobInfo]",
    "query-blockstats": "[BlockStats]",
    "query-chardev": "[ChardevInfo]",
    "query-chardev-backends": "[ChardevBackendInfo]",
    "query-command-line-options": "[CommandLineOptionInfo]",
    "query-commands": "[CommandInfo]",
    "query-fdsets": "[FdsetInfo]",
    "query-iothreads": "[IOThreadInfo]",
    "query-jobs": "[JobInfo]",
    "query-kvm": "KvmInfo",
    "query-name": "NameInfo",
    "query-named-block-nodes": "[BlockDeviceInfo]",
    "query-pr-managers": "[PRManagerInfo]",
    "query-qmp-schema": "[SchemaInfo]",
    "query-status": "StatusInfo",
    "query-transactions": "[any]",
    "query-uuid": "UuidInfo",
    "query-version": "VersionInfo",
    "query-yank": "[YankInstance]",
    "trace-event-get-state": "[TraceEventInfo]",
    "x-accel-stats": "HumanReadableText",
    "x-blkxact-fault-add": "TestId",
    "x-blkxact-fault-remove": "TestStruck",
    "x-blkxact-pause-at": "TestId",
    "x-blkxact-query-record": "RecordFile",
    "x-blkxact-record": "TestRecord",
    "x-blkxact-step": "TestStep",
    "x-debug-block-dirty-bitmap-sha256": "BlockDirtyBitmapSha256",
    "x-debug-query-block-graph": "XDbgBlockGraph",
}

TYPES: Final = """
# Nodes and devices

BlockInfo
    device:str qdev?:str type:str removable:bool locked:bool inserted?:BlockDeviceInfo
    tray_open?:bool io-status?:BlockDeviceIoStatus

BlockDeviceInfo
    file:str node-name:str ro:bool drv:str backing_file?:str backing_file_depth:int encrypted:bool
    detect_zeroes:BlockdevDetectZeroesOptions bps:int bps_rd:int bps_wr:int iops:int iops_rd:int
    iops_wr:int image:ImageInfo bps_max?:int bps_rd_max?:int bps_wr_max?:int iops_max?:int
    iops_rd_max?:int iops_wr_max?:int bps_max_length?:int bps_rd_max_length?:int
    bps_wr_max_length?:int iops_max_length?:int iops_rd_max_length?:int iops_wr_max_length?:int
    iops_size?:int group?:str cache:BlockdevCacheInfo write_threshold:int
    dirty-bitmaps?:[BlockDirtyInfo] active:bool children:[BlockdevChild]

BlockdevChild
    child:str node-name:str

BlockdevCacheInfo
    writeback:bool direct:bool no-flush:bool

BlockDirtyInfo
    name?:str count:int granularity:int recording:bool busy:bool persistent:bool inconsistent?:bool

BlockDirtyBitmapSha256
    sha256:str

ImageInfo
    filename:str format:str dirty-flag?:bool actual-size?:int virtual-size:int cluster-size?:int
    encrypted?:bool compressed?:bool backing-filename?:str full-backing-filename?:str
    backing-filename-format?:str snapshots?:[SnapshotInfo] backing-image?:ImageInfo
    format-specific?:ImageInfoSpecific limits?:BlockLimitsInfo

BlockLimitsInfo
    request-alignment:int max-discard?:int discard-alignment?:int max-write-zeroes?:int
    write-zeroes-alignment?:int opt-transfer?:int max-transfer?:int max-hw-transfer?:int
    max-iov:int max-hw-iov?:int min-mem-alignment:int opt-mem-alignment:int

ImageInfoSpecific
    type:ImageInfoSpecificKind
    by type qcow2:ImageInfoSpecificQCow2Wrapper file:ImageInfoSpecificFileWrapper

ImageInfoSpecificFileWrapper
    data:ImageInfoSpecificFile

ImageInfoSpecificFile
    extent-size-hint?:int

ImageInfoSpecificQCow2Wrapper
    data:ImageInfoSpecificQCow2

ImageInfoSpecificQCow2
    compat:str data-file?:str data-file-raw?:bool extended-l2?:bool lazy-refcounts?:bool
    corrupt?:bool refcount-bits:int bitmaps?:[Qcow2BitmapInfo]
    compression-type:Qcow2CompressionType

Qcow2BitmapInfo
    name:str granularity:int flags:[Qcow2BitmapInfoFlags]

SnapshotInfo
    id:str name:str vm-state-size:int date-sec:int date-nsec:int vm-clock-sec:int vm-clock-nsec:int
    icount?:int

enum ImageInfoSpecificKind qcow2 file
enum Qcow2BitmapInfoFlags in-use auto

# Statistics

BlockStats
    device?:str qdev?:str node-name?:str stats:BlockDeviceStats driver-specific?:BlockStatsSpecific
    parent?:BlockStats backing?:BlockStats

BlockDeviceStats
    rd_bytes:int wr_bytes:int unmap_bytes:int rd_operations:int wr_operations:int
    flush_operations:int unmap_operations:int rd_total_time_ns:int wr_total_time_ns:int
    flush_total_time_ns:int unmap_total_time_ns:int wr_highest_offset:int rd_merged:int
    wr_merged:int unmap_merged:int idle_time_ns?:int failed_rd_operations:int
    failed_wr_operations:int failed_flush_operations:int failed_unmap_operations:int
    invalid_rd_operations:int invalid_wr_operations:int invalid_flush_operations:int
    invalid_unmap_operations:int account_invalid:bool account_failed:bool
    timed_stats:[BlockDeviceTimedStats] rd_latency_histogram?:BlockLatencyHistogramInfo
    wr_latency_histogram?:BlockLatencyHistogramInfo
    flush_latency_histogram?:BlockLatencyHistogramInfo zone_append_bytes:int
    zone_append_operations:int zone_append_total_time_ns:int zone_append_merged:int
    failed_zone_append_operations:int invalid_zone_append_operations:int
    zone_append_latency_histogram?:BlockLatencyHistogramInfo

BlockDeviceTimedStats
    interval_length:int min_rd_latency_ns:int max_rd_latency_ns:int avg_rd_latency_ns:int
    min_wr_latency_ns:int max_wr_latency_ns:int avg_wr_latency_ns:int min_flush_latency_ns:int
    max_flush_latency_ns:int avg_flush_latency_ns:int avg_rd_queue_depth:number
    avg_wr_queue_depth:number min_zone_append_latency_ns:int max_zone_append_latency_ns:int
    avg_zone_append_latency_ns:int avg_zone_append_queue_depth:number

BlockLatencyHistogramInfo
    boundaries:[int] bins:[int]

BlockStatsSpecific
    driver:BlockdevDriver
    by driver file:BlockStatsSpecificFile host_device:BlockStatsSpecificFile

BlockStatsSpecificFile
    discard-nb-ok:int discard-nb-failed:int discard-bytes-ok:int

# The graph

XDbgBlockGraph
    nodes:[XDbgBlockGraphNode] edges:[XDbgBlockGraphEdge]

XDbgBlockGraphNode
    id:int type:XDbgBlockGraphNodeType name:str

XDbgBlockGraphEdge
    parent:int child:int name:str perm:[BlockPermission] shared-perm:[BlockPermission]

enum XDbgBlockGraphNodeType block-backend block-job block-driver

# Jobs and exports

JobInfo
    id:str type:JobType status:JobStatus current-progress:int total-progress:int error?:str

BlockJobInfo
    type:JobType device:str len:int offset:int busy:bool paused:bool speed:int
    io-status:BlockDeviceIoStatus ready:bool status:JobStatus auto-finalize:bool auto-dismiss:bool
    error?:str
    by type mirror:BlockJobInfoMirror

BlockJobInfoMirror
    actively-synced:bool

BlockExportInfo
    id:str type:BlockExportType node-name:str shutting-down:bool

enum BlockExportType nbd

PRManagerInfo
    id:str connected:bool

# Objects and devices

ObjectPropertyInfo
    name:str type:str description?:str default-value?:any

ObjectPropertiesValues
    properties:[ObjectPropertyValue]

ObjectPropertyValue
    name:str type:str value?:any

ObjectTypeInfo
    name:str abstract?:bool parent?:str

IOThreadInfo
    id:str thread-id:int poll-max-ns:int poll-grow:int poll-shrink:int poll-weight:int
    aio-max-batch:int

# The machine

AcceleratorInfo
    enabled:Accelerator present:[Accelerator]

enum Accelerator hvf kvm mshv nvmm qtest tcg whpx xen

HumanReadableText
    human-readable-text:str

# The monitor

AddfdInfo
    fdset-id:int fd:int

FdsetInfo
    fdset-id:int fds:[FdsetFdInfo]

FdsetFdInfo
    fd:int opaque?:str

ChardevInfo
    label:str filename:str frontend-open:bool

ChardevBackendInfo
    name:str

CommandInfo
    name:str

CommandLineOptionInfo
    option:str parameters:[CommandLineParameterInfo]

CommandLineParameterInfo
    name:str type:CommandLineParameterType help?:str default?:str

enum CommandLineParameterType string boolean number size

KvmInfo
    enabled:bool present:bool

NameInfo
    name?:str

StatusInfo
    running:bool singlestep:bool status:RunState

enum RunState
    debug inmigrate internal-error io-error paused postmigrate prelaunch finish-migrate restore-vm
    running save-vm shutdown suspended watchdog guest-panicked colo

TraceEventInfo
    name:str state:TraceEventState vcpu:bool

enum TraceEventState unavailable disabled enabled

UuidInfo
    UUID:str

VersionInfo
    qemu:VersionTriple package:str

VersionTriple
    major:int minor:int micro:int

# Tests

TestId
    id:int

TestStruck
    struck:int

TestRecord
    passings:[str]

TestStep
    more:bool

# Records

RecordFile
    filename:str

# The schema

SchemaInfo
    name:str meta-type:SchemaMetaType features?:[str]
    by meta-type builtin:SchemaInfoBuiltin enum:SchemaInfoEnum array:SchemaInfoArray
    object:SchemaInfoObject alternate:SchemaInfoAlternate command:SchemaInfoCommand
    event:SchemaInfoEvent

SchemaInfoBuiltin
    json-type:JSONType

SchemaInfoEnum
    members:[SchemaInfoEnumMember] values:[str]

SchemaInfoEnumMember
    name:str features?:[str]

SchemaInfoArray
    element-type:str

SchemaInfoObject
    members:[SchemaInfoObjectMember] tag?:str variants?:[SchemaInfoObjectVariant]

SchemaInfoObjectMember
    name:str type:str default?:any features?:[str]

SchemaInfoObjectVariant
    case:str type:str

SchemaInfoAlternate
    members:[SchemaInfoAlternateMember]

SchemaInfoAlternateMember
    type:str

SchemaInfoCommand
    arg-type:str ret-type:str allow-oob?:bool

SchemaInfoEvent
    arg-type:str

enum SchemaMetaType builtin enum array object alternate command event
enum JSONType string number int boolean null object array value
"""
