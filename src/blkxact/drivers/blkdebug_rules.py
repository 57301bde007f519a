"""What blkdebug does upon events: the rules, the state, and the errors that are armed.

Source: ``qapi/block-core.json`` (BlkdebugEvent, BlkdebugIOType, BlkdebugInjectErrorOptions,
BlkdebugSetStateOptions); the configuration file has the sections ``[inject-error]`` and
``[set-state]`` with lines ``name = "value"``.

QEMU's counterpart: BlkdebugRule in ``block/blkdebug.c``; ``util/qemu-config.c``.
"""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from blkxact.block.types import SECTOR
from blkxact.enums import BlkdebugEvent, BlkdebugIOType
from blkxact.errors import QmpError, os_error, strerror
from blkxact.qapi.blockdev import (
    BlkdebugInjectErrorOptions,
    BlkdebugSetStateOptions,
    BlockdevOptionsBlkdebug,
)
from blkxact.qapi.validation import validate
from blkxact.qapi.versions import BLKDEBUG_DELAYS, behaves, exists
from blkxact.runtime.clock import Clock
from blkxact.runtime.points import Points
from blkxact.runtime.release import DEFAULT_RELEASE, Release
from blkxact.runtime.steps import yield_turn
from blkxact.storage.api import Storage

if TYPE_CHECKING:
    from blkxact.block.open_context import Environment

DEFAULT_IO_TYPES = frozenset(BlkdebugIOType) - {BlkdebugIOType.BLOCK_STATUS}

CONFIG_MAX = 1 << 20
"""Most bytes of a configuration file."""

NANOSECONDS = 1_000_000_000

ANY_STATE = 0
FIRST_STATE = 1


@dataclass(slots=True, eq=False)
class InjectError:
    """Delay and fail requests once ``event`` was seen in ``state``; 0 is no error."""

    event: str
    state: int = ANY_STATE
    iotypes: frozenset[BlkdebugIOType] = DEFAULT_IO_TYPES
    errno: int = errno.EIO
    delay_s: float = 0.0
    offset: int | None = None
    once: bool = False
    immediately: bool = False

    def concerns(self, iotype: BlkdebugIOType, offset: int, length: int) -> bool:
        """Return whether a request is one to fail."""
        if iotype not in self.iotypes:
            return False
        return self.offset is None or offset <= self.offset < offset + length


@dataclass(slots=True, eq=False)
class SetState:
    """Go to ``new_state`` when ``event`` is seen in ``state``."""

    event: str
    new_state: int
    state: int = ANY_STATE


@dataclass(slots=True, eq=False)
class Breakpoint:
    """Suspend the request that sends ``event``, once."""

    event: str
    tag: str
    state: int = ANY_STATE


@dataclass(slots=True, eq=False)
class Suspension:
    """A request that stands at a breakpoint."""

    tag: str
    resumed: asyncio.Event = field(default_factory=asyncio.Event)


Rule = InjectError | SetState | Breakpoint
_Section = BlkdebugInjectErrorOptions | BlkdebugSetStateOptions
_MODELS: Final[dict[str, type[_Section]]] = {
    "inject-error": BlkdebugInjectErrorOptions,
    "set-state": BlkdebugSetStateOptions,
}


class Rules:
    """The rules of one driver, in the order in which they were added.

    They listen to ``points``, which the driver passes besides those of the emulator: events as
    ``node.EVENT``, and requests, once these are cut, as ``blkdebug.read`` and so on.
    ``delays``: rules without an error concern requests as well.
    """

    def __init__(self, clock: Clock, *, delays: bool) -> None:
        self._clock = clock
        self._delays = delays
        self.state = FIRST_STATE
        self.points = Points()
        self._rules: dict[str, list[Rule]] = {}
        self._armed: list[InjectError] = []
        self._suspended: list[Suspension] = []
        self._suspended_changed = asyncio.Event()

    def add(self, rule: Rule) -> None:
        """Add a rule."""
        if not self._rules:
            for iotype in BlkdebugIOType:
                self.points.listen(f"blkdebug.{iotype}", partial(self._on_request, iotype))
        if rule.event not in self._rules:
            self.points.listen(f"node.{rule.event}", partial(self._on_event, rule.event))
        self._rules.setdefault(rule.event, []).append(rule)

    def _on_event(
        self, event: str, _name: str, _facts: Mapping[str, Any]
    ) -> Awaitable[None] | None:
        held = self._fire(event)
        return self._hold(held) if held else None

    async def _hold(self, held: list[Suspension]) -> None:
        """Wait until all are resumed."""
        self._suspended[:0] = held
        self._suspended_changed.set()
        try:
            for suspension in held:
                await suspension.resumed.wait()
        finally:
            self._suspended = [s for s in self._suspended if s not in held]

    def _on_request(
        self, iotype: BlkdebugIOType, _name: str, facts: Mapping[str, Any]
    ) -> Awaitable[None] | None:
        """Raise the error that is armed for a request, at once or later."""
        rule = self._take_error(iotype, facts["offset"], facts["length"])
        if rule is None:
            return None
        if rule.immediately and not rule.delay_s:
            if rule.errno:
                raise os_error(rule.errno)
            return None
        return self._answer_later(rule)

    async def _answer_later(self, rule: InjectError) -> None:
        if rule.delay_s:
            await self._clock.sleep(rule.delay_s)
        if not rule.immediately:
            await yield_turn()
        if rule.errno:
            raise os_error(rule.errno)

    def _fire(self, event: str) -> list[Suspension]:
        """Act upon an event; return what the sender must wait for."""
        rules = [r for r in self._rules.get(event, ()) if r.state in (ANY_STATE, self.state)]
        errors = [r for r in rules if isinstance(r, InjectError)]
        if errors:
            self._armed = errors
        # The newest rule acts first, so the oldest has the last word about the state.
        for rule in rules[::-1]:
            if isinstance(rule, SetState):
                self.state = rule.new_state
        breakpoints = [r for r in rules if isinstance(r, Breakpoint)]
        for rule in breakpoints:
            self._rules[event].remove(rule)
        return [Suspension(rule.tag) for rule in breakpoints]

    def _take_error(self, iotype: BlkdebugIOType, offset: int, length: int) -> InjectError | None:
        """Return the armed error for a request; a ``once`` rule is gone with it."""
        for rule in self._armed:
            if rule.concerns(iotype, offset, length):
                break
        else:
            return None
        if rule.errno == 0 and not self._delays:
            return None
        if rule.once:
            self._armed.remove(rule)
            self._rules[rule.event].remove(rule)
        return rule

    def add_breakpoint(self, event: str, tag: str) -> None:
        """Suspend the next request that sends ``event``; raises ``OSError(ENOENT)``."""
        if BlkdebugEvent.named(event) is None:
            raise os_error(errno.ENOENT)
        self.add(Breakpoint(event, tag))

    def remove_breakpoint(self, tag: str) -> None:
        """Remove breakpoints and resume requests with this tag; raises ``OSError(ENOENT)``."""
        found = False
        for event, rules in self._rules.items():
            kept = [r for r in rules if not (isinstance(r, Breakpoint) and r.tag == tag)]
            found = found or len(kept) < len(rules)
            self._rules[event] = kept
        while self.is_suspended(tag):
            self.resume(tag)
            found = True
        if not found:
            raise os_error(errno.ENOENT)

    def resume(self, tag: str) -> None:
        """Resume the request suspended last under this tag; raises ``OSError(ENOENT)``."""
        for suspension in self._suspended:
            if suspension.tag == tag:
                self._suspended.remove(suspension)
                suspension.resumed.set()
                return
        raise os_error(errno.ENOENT)

    def is_suspended(self, tag: str | None = None) -> bool:
        """Return whether a request is suspended under this tag, or at all."""
        return any(tag in (s.tag, None) for s in self._suspended)

    async def wait_suspended(self, tag: str | None = None) -> None:
        """Return when a request is suspended under this tag, or at all."""
        while not self.is_suspended(tag):
            self._suspended_changed.clear()
            await self._suspended_changed.wait()


async def read_rules(env: Environment, options: BlockdevOptionsBlkdebug) -> Rules:
    """Return the rules of ``config`` and of the options; raises ``QmpError`` in QEMU's words."""
    sections: list[_Section] = []
    if options.config is not None:
        text = await _read_text(env.storage, options.config)
        sections += parse_config(text, env.release)
    sections += options.inject_error or ()
    sections += options.set_state or ()
    rules = Rules(env.clock, delays=behaves(BLKDEBUG_DELAYS, env.release))
    for kind in _MODELS.values():
        for section in sections:
            if isinstance(section, kind):
                rules.add(_rule(section))
    return rules


async def _read_text(storage: Storage, path: str) -> str:
    try:
        file = await storage.open(path, read_only=True)
        try:
            size = min(file.size(), CONFIG_MAX)
            return bytes(await file.pread(0, size)).decode("utf-8", "replace")
        finally:
            await file.close()
    except OSError as error:
        raise QmpError(f"Could not read blkdebug config file: {strerror(error)}") from error


_SECTION = re.compile(r"\[([^\]]+)\]")
_SETTING = re.compile(r'\s*(\S+)\s*=\s*"([^"]*)"')


def parse_config(text: str, release: Release = DEFAULT_RELEASE) -> list[_Section]:
    """Return the sections of a configuration file as a release of QEMU reads it."""
    sections: list[tuple[str, dict[str, Any]]] = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        if section := _SECTION.match(line):
            if section[1] not in _TYPES:
                raise QmpError(f"There is no option group '{section[1]}'")
            sections.append((section[1], {}))
        elif (setting := _SETTING.match(line)) is None:
            raise QmpError("parse error")
        elif not sections:
            raise QmpError("no group defined")
        else:
            group, values = sections[-1]
            if not exists(f"{_MODELS[group].__name__}.{setting[1]}", release):
                raise _invalid(setting[1])
            values[setting[1]] = _typed(group, setting[1], setting[2])
    return [_model(group, values) for group, values in sections]


def _model(group: str, values: Mapping[str, Any]) -> _Section:
    check_section(values)
    section: _Section = validate(_MODELS[group], {**_DEFAULTS[group], **values})
    return section


def check_section(values: Mapping[str, Any]) -> None:
    """Raise ``QmpError`` for words in a rule that mean nothing."""
    event, iotype = values.get("event"), values.get("iotype")
    if event is None:
        raise QmpError("Missing event name for rule")
    if BlkdebugEvent.named(event) is None:
        raise QmpError(f"invalid parameter value: {event}")
    if iotype is not None and BlkdebugIOType.named(iotype) is None:
        raise QmpError(f"invalid parameter value: {iotype}")


_DEFAULTS: Final[dict[str, dict[str, Any]]] = {"inject-error": {}, "set-state": {"new_state": 0}}
"""What a configuration file may leave out and the schema does not."""
_TYPES: dict[str, dict[str, type]] = {
    "inject-error": {
        "event": str,
        "state": int,
        "iotype": str,
        "errno": int,
        "delay-ns": int,
        "sector": int,
        "once": bool,
        "immediately": bool,
    },
    "set-state": {"event": str, "state": int, "new_state": int},
}


def _typed(group: str, name: str, value: str) -> Any:
    wanted = _TYPES[group].get(name)
    if wanted is None:
        raise _invalid(name)
    if wanted is str:
        return value
    if wanted is bool:
        if value in ("on", "yes", "true", "y"):
            return True
        if value in ("off", "no", "false", "n"):
            return False
        raise QmpError(f"Parameter '{name}' expects 'on' or 'off'")
    try:
        return int(value, 0)
    except ValueError:
        raise QmpError(f"Parameter '{name}' expects a number") from None


def _invalid(name: str) -> QmpError:
    return QmpError(f"Invalid parameter '{name}'")


def _rule(section: _Section) -> Rule:
    state = section.state or ANY_STATE
    if isinstance(section, BlkdebugSetStateOptions):
        return SetState(section.event, section.new_state, state)
    iotype, sector, error = section.iotype, section.sector, section.errno
    return InjectError(
        section.event,
        state,
        iotypes=DEFAULT_IO_TYPES if iotype is None else frozenset({iotype}),
        errno=errno.EIO if error is None else error,
        delay_s=max(section.delay_ns, 0) / NANOSECONDS,
        offset=None if sector is None or sector == -1 else sector * SECTOR,
        once=section.once,
        immediately=section.immediately,
    )
