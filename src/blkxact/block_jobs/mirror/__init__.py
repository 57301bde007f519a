"""Mirrors: a node kept equal to another, until it can take that one's place.

``blockdev-mirror``, ``drive-mirror`` and the active form of ``block-commit`` are the same job.

QEMU's counterpart: ``block/mirror.c``.
"""
