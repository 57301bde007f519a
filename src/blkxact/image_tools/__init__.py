"""What is done to image files without a daemon: the work of ``blkxact image`` and ``chain``.

Nothing here knows of a command line: options come as arguments, progress goes to a callback, and
an error is a ``QmpError`` or an ``OSError``.
"""
