"""Connections that are cut from outside.

QEMU's counterpart: ``qapi/yank.json``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from .common import Array, Discriminator, QapiModel


class YankInstanceBlockNode(QapiModel):
    """A node with a connection to a server."""

    type: Literal["block-node"]
    node_name: str


class YankInstanceChardev(QapiModel):
    """A character device that is a socket; its client stays connected."""

    type: Literal["chardev"]
    id: str


class YankInstanceMigration(QapiModel):
    """The migration, which there is none of."""

    type: Literal["migration"]


YankInstance = Annotated[
    YankInstanceBlockNode | YankInstanceChardev | YankInstanceMigration, Discriminator("type")
]


class Yank(QapiModel):
    """yank."""

    instances: Array[YankInstance]
