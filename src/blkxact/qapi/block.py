"""Commands on the media of devices.

QEMU's counterpart: ``qapi/block.json``.
"""

from __future__ import annotations

from .common import Opt, QapiModel


class Eject(QapiModel):
    """eject."""

    device: Opt[str] = None
    id: Opt[str] = None
    force: bool = False
