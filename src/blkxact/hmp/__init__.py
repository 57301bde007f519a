"""The human monitor: command lines as people type them, and ``qemu-io``, the guest."""

from .monitor import run

__all__ = ["run"]
