"""Scenarios: the real daemon, a real socket, real images; what a backup tool would live through.

``pytest iotests`` runs them; ``python -m iotests [NAME ...]`` runs those named (``incremental``,
``failure`` ...) and tells what happens, step by step. See ``docs/testing.md``.

QEMU's counterpart: ``tests/qemu-iotests``.
"""
