"""The only room with system calls on image files."""
