"""QEMU's block layer without the virtual machine.

ARCHITECTURE.md describes the modules and the path of a command through them.
"""

__version__ = "0.1.0"

PACKAGE = f"blkxact {__version__}"
"""What monitors call this program, beside the version of the QEMU that it follows."""
