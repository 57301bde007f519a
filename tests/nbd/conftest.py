"""Fixtures that tests of NBD share."""

from .certificates import pki

__all__ = ["pki"]
