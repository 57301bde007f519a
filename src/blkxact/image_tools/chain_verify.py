"""Whether a backing chain is whole: its links, formats and sizes, and each image by itself.

The links are followed one by one, so that the first broken one is named and the images above it are
checked all the same. Nothing is written.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from blkxact.block.node import BlockNode
from blkxact.blockdev.backing_name import MAX_BACKING_DEPTH
from blkxact.blockdev.info import full_backing_filename
from blkxact.errors import QmpError, strerror

from .chain import image_file, written_at
from .check import ImageCheck, NoChecksError, check
from .open_images import ImageName, Images, node_of


class Severity(Enum):
    """How bad a finding is."""

    ERROR = "error"
    """What the chain holds is damaged, or cannot be reached."""
    LEAKS = "leaks"
    """Space is wasted."""
    WARNING = "warning"
    """It may be as it should, but often is not."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one image of the chain."""

    severity: Severity
    filename: str
    text: str

    def describe(self) -> dict[str, str]:
        """Return the members for JSON."""
        return {"severity": self.severity.value, "filename": self.filename, "text": self.text}


@dataclass(slots=True)
class Verdict:
    """What was found out about a chain."""

    images: list[dict[str, Any]] = field(default_factory=list)
    """Name, format, size and check of each image, the uppermost first."""
    findings: list[Finding] = field(default_factory=list)

    def has(self, severity: Severity) -> bool:
        """Return whether there is such a finding."""
        return any(finding.severity is severity for finding in self.findings)

    def add(self, severity: Severity, filename: str, text: str) -> None:
        """Note a finding."""
        self.findings.append(Finding(severity, filename, text))

    def describe(self) -> dict[str, Any]:
        """Return the members for JSON."""
        return {
            "images": self.images,
            "findings": [finding.describe() for finding in self.findings],
            "sound": not self.has(Severity.ERROR),
        }


async def verify_chain(images: Images, top: ImageName, *, force_share: bool = False) -> Verdict:
    """Follow the chain from ``top`` down; raises ``QmpError`` only if ``top`` cannot be opened."""
    verdict = Verdict()
    seen: dict[str, str] = {}
    name: ImageName | None = top
    above: BlockNode | None = None
    while name is not None:
        identity = _identity(name)
        if identity in seen or len(seen) > MAX_BACKING_DEPTH:
            loop = f"Backing file '{name.text}' creates an infinite loop."
            verdict.add(Severity.ERROR, seen.get(identity, name.text), loop)
            break
        seen[identity] = name.text
        node = await _open(images, verdict, name, above, force_share=force_share)
        await _check(images, verdict, name, node, force_share=force_share)
        if node is None:
            break
        if above is not None:
            _compare_link(verdict, above, node)
        name, above = _next(verdict, node), node
    return verdict


def _identity(name: ImageName) -> str:
    return os.path.realpath(name.text)


async def _open(
    images: Images, verdict: Verdict, name: ImageName, above: BlockNode | None, *, force_share: bool
) -> BlockNode | None:
    """Open one image by itself; a failure is the finding of the image above it."""
    try:
        return node_of(await images.open(name, backing=False, force_share=force_share))
    except QmpError as error:
        if above is None:
            raise
        verdict.add(Severity.ERROR, image_file(above), error.desc)
        return None


async def _check(
    images: Images, verdict: Verdict, name: ImageName, node: BlockNode | None, *, force_share: bool
) -> None:
    """Check an image, also one that is too damaged to be opened."""
    image: dict[str, Any] = {"filename": name.text, "format": name.format, "check": None}
    if node is not None:
        image["format"], image["virtual-size"] = node.driver.format_name, node.length
    elif not os.path.exists(name.text):  # noqa: ASYNC240, PTH110 - one look, a string all the way
        return
    verdict.images.append(image)
    try:
        checked = await check(images, name, force_share=force_share)
    except NoChecksError:
        return
    except (QmpError, OSError) as error:
        why = strerror(error) if isinstance(error, OSError) else error.desc
        verdict.add(Severity.ERROR, name.text, why)
        return
    image["check"] = checked.describe()
    _judge_check(verdict, name.text, checked)
    if node is not None:
        for bitmap in node.bitmaps.values():
            if bitmap.inconsistent:
                verdict.add(
                    Severity.WARNING, name.text,
                    f"Bitmap '{bitmap.name}' is inconsistent: it was in use when the image was "
                    "not closed",
                )  # fmt: skip


def _judge_check(verdict: Verdict, filename: str, checked: ImageCheck) -> None:
    left = checked.left
    if left.check_errors:
        verdict.add(Severity.ERROR, filename, "Check failed")
    if left.corruptions:
        verdict.add(Severity.ERROR, filename, f"{left.corruptions} errors were found on the image")
    if left.leaks:
        verdict.add(
            Severity.LEAKS, filename, f"{left.leaks} leaked clusters were found on the image"
        )


def _compare_link(verdict: Verdict, above: BlockNode, below: BlockNode) -> None:
    """Look at what the two sides of a link say of each other."""
    if below.length > above.length:
        verdict.add(
            Severity.WARNING, image_file(above),
            f"it is smaller ({above.length} bytes) than its backing file ({below.length} bytes), "
            "whose end it hides",
        )  # fmt: skip
    upper, lower = written_at(above), written_at(below)
    if upper is not None and lower is not None and lower > upper:
        verdict.add(
            Severity.WARNING, image_file(above),
            f"its backing file '{image_file(below)}' was written to after it",
        )  # fmt: skip


def _next(verdict: Verdict, node: BlockNode) -> ImageName | None:
    """Return the image that the header names as backing file."""
    driver = node.driver
    if not driver.backing_file:
        return None
    if driver.backing_format is None:
        verdict.add(
            Severity.WARNING, image_file(node),
            "the header does not name the format of the backing file, which has to be guessed",
        )  # fmt: skip
    return ImageName(full_backing_filename(node), driver.backing_format)
