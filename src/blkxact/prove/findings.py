"""Findings: the cases of one cause put together, described by the simplest of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .causes import Cause, cause_of
from .faults import SIMPLICITY, parse_fault
from .results import CallReport, Result, Verdict
from .wording import describe

_HARMLESS = frozenset({Verdict.SOUND, Verdict.HONEST, Verdict.MISSED})
_ENDED = {
    "ok": "exited with 0",
    "failed": "failed and said so",
    "killed": "was killed",
    "hung": "did not end",
}


@dataclass(frozen=True)
class Finding:
    """A cause, and all cases that show it, the simplest first."""

    cause: Cause
    verdict: Verdict
    results: tuple[Result, ...]

    @property
    def simplest(self) -> Result:
        """The case to look at."""
        return self.results[0]

    def paragraph(self) -> str:
        """Return what happened and why, for a person."""
        result = self.simplest
        struck = [fault for call in result.calls for fault in call.struck]
        faults = " and ".join(describe(parse_fault(fault)) for fault in struck)
        story = [f"{faults[:1].upper()}{faults[1:]}."] if faults else ["No fault struck."]
        first = next((call.number for call in result.calls if call.struck), 1)
        story += [_story_of(call) for call in result.calls if call.number >= first]
        story += [f"{note}." for note in result.notes]
        return " ".join([*story, self.cause.text])


def _story_of(call: CallReport) -> str:
    text = f"Call {call.number} ({call.verb}) {_ENDED[call.ended]}"
    if call.lost:
        text += f" (never synced, and empty now: {', '.join(call.lost)})"
    if call.wrong:
        return f"{text}, but does not restore: {'; '.join(call.wrong).rstrip('.')}."
    return f"{text}."


def findings_of(results: Iterable[Result]) -> list[Finding]:
    """Return what cases show that are neither sound nor honest, the worst first."""
    groups: dict[tuple[Verdict, Cause], list[Result]] = {}
    for result in results:
        if result.verdict not in _HARMLESS:
            groups.setdefault((result.verdict, cause_of(result)), []).append(result)
    found = [
        Finding(cause, verdict, tuple(sorted(group, key=_simplicity)))
        for (verdict, cause), group in groups.items()
    ]
    order = list(Verdict)
    return sorted(found, key=lambda each: (order.index(each.verdict), each.cause.title))


def _simplicity(result: Result) -> tuple[int, int, int, int, str]:
    faults = result.case.faults
    if not faults:
        return (0, 0, 0, 0, "")
    first = faults[0]
    return (
        len(faults),
        SIMPLICITY.index(first.action),
        first.passing.call,
        first.passing.nth,
        str(result.case),
    )
