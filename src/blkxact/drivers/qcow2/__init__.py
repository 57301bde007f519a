"""The qcow2 format: images that grow as they are written, with backing files and bitmaps.

``layout`` and ``layout_tables`` know the bytes on disk; ``refcounts`` who uses which cluster;
``cluster_map`` where the disk's clusters lie; ``image`` holds them together and orders what goes to
stable storage; ``writer`` and ``resize`` change images; ``driver`` is what the block layer sees.
"""
