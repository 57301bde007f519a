"""Mirrors: a node is kept equal to another until it can replace it.

``blockdev-mirror``, ``drive-mirror`` and the active form of ``block-commit`` are the same job.

QEMU's counterpart: ``block/mirror.c``.
"""
