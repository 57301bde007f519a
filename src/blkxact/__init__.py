"""QEMU's block layer without the virtual machine.

The house and the way of a command through it are described in ARCHITECTURE.md.
"""
