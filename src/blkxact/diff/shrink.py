"""The shortest script that still shows a difference, by leaving out ever smaller pieces."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence


async def shrink(
    steps: Sequence[str], still_fails: Callable[[Sequence[str]], Awaitable[bool]]
) -> list[str]:
    """Return steps of which none can be left out; ``still_fails`` is asked of each try."""
    kept = list(steps)
    size = max(1, len(kept) // 2)
    while True:
        start, shorter = 0, False
        while start < len(kept):
            attempt = kept[:start] + kept[start + size :]
            if await still_fails(attempt):
                kept, shorter = attempt, True
            else:
                start += size
        if size > 1:
            size //= 2
        elif not shorter:
            return kept
