"""The real programs, as command lines whose monitor is standard input."""

SYSTEM = (
    *("qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-S"),
    *("-qmp", "stdio"),
)
STORAGE_DAEMON = ("qemu-storage-daemon", "--chardev", "stdio,id=c", "--monitor", "c")
