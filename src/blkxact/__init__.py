"""QEMU's block layer without the virtual machine.

The house and the way of a command through it are described in ARCHITECTURE.md.
"""

__version__ = "0.1.0"

PACKAGE = f"blkxact {__version__}"
"""What monitors call this program, beside the version of the QEMU that it follows."""
