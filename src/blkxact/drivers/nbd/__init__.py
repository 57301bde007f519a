"""The driver ``nbd``: an export of a server as a protocol node.

``options`` reads BlockdevOptionsNbd and names; ``channel`` is one connection; ``client`` keeps one
there, whatever becomes of the server; ``driver`` makes requests of a node's.
"""
