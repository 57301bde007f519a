"""QMP as bytes in and bytes out: no sockets, no clock, no loop.

``json_scanner`` finds messages in bytes, ``json_parser`` makes values of the odd ones,
``json_stream`` joins the two to a fast path, ``json_text`` writes values, and ``session`` is one
client's conversation.
"""
