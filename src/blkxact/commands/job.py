"""Commands on jobs, by both of QEMU's families of names.

QEMU's counterpart: ``job-qmp.c``, ``blockdev.c`` (qmp_block_job_*); ``qapi/job.json``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.block_layer import BlockLayer
from blkxact.enums import MirrorCopyMode
from blkxact.errors import QmpError
from blkxact.job.block_job import BlockJob
from blkxact.qapi.block_jobs import (
    BlockJobCancel,
    BlockJobChange,
    BlockJobChangeOptions,
    BlockJobChangeOptionsMirror,
    BlockJobDevice,
    BlockJobId,
    BlockJobSetSpeed,
)
from blkxact.qapi.common import NoArguments
from blkxact.qapi.job import JobId

from .command import Command


def query_jobs(layer: BlockLayer, args: NoArguments) -> list[dict[str, Any]]:
    """query-jobs: the latest first, as in QEMU."""
    del args
    return [job.info() for job in reversed(layer.jobs.values())]


def query_block_jobs(layer: BlockLayer, args: NoArguments) -> list[dict[str, Any]]:
    """query-block-jobs: the latest first, as in QEMU."""
    del args
    jobs = reversed(layer.jobs.values())
    return [job.block_job_info() for job in jobs if isinstance(job, BlockJob)]


async def job_cancel(layer: BlockLayer, args: JobId) -> None:
    """job-cancel."""
    await layer.find_job(args.id).user_cancel()


def job_pause(layer: BlockLayer, args: JobId) -> None:
    """job-pause."""
    layer.find_job(args.id).user_pause()


def job_resume(layer: BlockLayer, args: JobId) -> None:
    """job-resume."""
    layer.find_job(args.id).user_resume()


def job_complete(layer: BlockLayer, args: JobId) -> None:
    """job-complete."""
    layer.find_job(args.id).user_complete()


async def job_finalize(layer: BlockLayer, args: JobId) -> None:
    """job-finalize."""
    await layer.find_job(args.id).user_finalize()


def job_dismiss(layer: BlockLayer, args: JobId) -> None:
    """job-dismiss."""
    layer.find_job(args.id).user_dismiss()


def set_speed(layer: BlockLayer, args: BlockJobSetSpeed) -> None:
    """block-job-set-speed."""
    layer.find_block_job(args.device).set_speed(args.speed)


async def block_job_cancel(layer: BlockLayer, args: BlockJobCancel) -> None:
    """block-job-cancel: a paused job is only cancelled by force."""
    job = layer.find_block_job(args.device)
    if job.user_paused and not args.force:
        raise QmpError(f"The block job for device '{args.device}' is currently paused")
    await job.user_cancel(force=args.force)


def block_job_pause(layer: BlockLayer, args: BlockJobDevice) -> None:
    """block-job-pause."""
    layer.find_block_job(args.device).user_pause()


def block_job_resume(layer: BlockLayer, args: BlockJobDevice) -> None:
    """block-job-resume."""
    layer.find_block_job(args.device).user_resume()


def block_job_complete(layer: BlockLayer, args: BlockJobDevice) -> None:
    """block-job-complete."""
    layer.find_block_job(args.device).user_complete()


async def block_job_finalize(layer: BlockLayer, args: BlockJobId) -> None:
    """block-job-finalize."""
    await layer.find_block_job(args.id).user_finalize()


def block_job_dismiss(layer: BlockLayer, args: BlockJobId) -> None:
    """block-job-dismiss."""
    layer.find_block_job(args.id).user_dismiss()


def block_job_change(layer: BlockLayer, args: BlockJobChangeOptions) -> None:
    """block-job-change: a request without a copy mode has the first one, as in QEMU."""
    copy_mode = MirrorCopyMode.BACKGROUND
    if isinstance(args, BlockJobChangeOptionsMirror):
        copy_mode = args.copy_mode
    layer.find_block_job(args.id).change(copy_mode)


COMMANDS: Final = [
    Command("query-jobs", query_jobs),
    Command("query-block-jobs", query_block_jobs),
    Command("job-cancel", job_cancel, JobId),
    Command("job-complete", job_complete, JobId),
    Command("job-dismiss", job_dismiss, JobId),
    Command("job-finalize", job_finalize, JobId),
    Command("job-pause", job_pause, JobId),
    Command("job-resume", job_resume, JobId),
    Command("block-job-cancel", block_job_cancel, BlockJobCancel),
    Command("block-job-change", block_job_change, BlockJobChange),
    Command("block-job-complete", block_job_complete, BlockJobDevice),
    Command("block-job-dismiss", block_job_dismiss, BlockJobId),
    Command("block-job-finalize", block_job_finalize, BlockJobId),
    Command("block-job-pause", block_job_pause, BlockJobDevice),
    Command("block-job-resume", block_job_resume, BlockJobDevice),
    Command("block-job-set-speed", set_speed, BlockJobSetSpeed),
]
