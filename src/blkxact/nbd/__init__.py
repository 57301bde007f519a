"""NBD, the network block device protocol: bytes in, messages out; no sockets, no clock.

``protocol`` has the numbers and layouts that both sides use.

Source: the NBD protocol specification (``doc/proto.md`` of NetworkBlockDevice/nbd).
"""
