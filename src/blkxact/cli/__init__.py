"""The ``blkxact`` command line: words become options, and the layers below do the work.

``main`` knows the commands; each has its own file. A person sees one clear line for every error
(``CliError``, ``QmpError``, ``OSError``), never a traceback.
"""
