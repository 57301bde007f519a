"""What protocols may rely on in a transport, whichever event loop made it.

* Its class says nothing: uvloop's transports have asyncio's methods, but not asyncio's classes.
* ``resume_writing`` is called from within the transport, which goes on with its own work when it
  returns. If the connection was closed, or found broken, in that call, asyncio closes it twice
  (``AttributeError: 'NoneType' object has no attribute 'connection_lost'``). A protocol therefore
  neither writes nor closes in ``resume_writing``, but in a callback of its own.
"""

from __future__ import annotations

import asyncio
from typing import cast


def as_stream(transport: asyncio.BaseTransport) -> asyncio.Transport:
    """Return the transport of a connected stream socket as what it is."""
    return cast("asyncio.Transport", transport)
