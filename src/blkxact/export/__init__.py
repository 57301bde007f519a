"""What the emulator exports, and the NBD server that serves it."""
