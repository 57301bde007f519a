"""Runs a page in Debian's chromium, without a window."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TIMEOUT = 120
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

_SCRIPT = """<script>
(async () => {{
  const options = {{ bubbles: true, cancelable: true }};
  const key = (name, target = document) =>
    target.dispatchEvent(new KeyboardEvent("keydown", {{ key: name, ...options }}));
  const frame = () => new Promise((done) => setTimeout(done, 50));
  let result;
  try {{
    result = await (async () => {{ {script} }})();
  }} catch (error) {{
    result = String(error.stack);
  }}
  const out = document.createElement("pre");
  out.id = "result-of-test";
  out.textContent = JSON.stringify(result);
  document.body.append(out);
}})();
</script></body>"""
RESULT = re.compile(r'<pre id="result-of-test">(.*?)</pre>', re.DOTALL)


def chromium_command(directory: Path, window: str = "1280,900") -> list[str]:
    """Return the words that start it; what it keeps goes to ``directory``."""
    assert CHROMIUM is not None
    return [
        CHROMIUM,
        *("--headless", "--disable-gpu"),
        *(["--no-sandbox"] if os.getuid() == 0 else []),
        f"--user-data-dir={directory / 'chromium'}",
        f"--window-size={window}",
    ]


def run_in_page(page: Path, script: str, *, window: str = "1280,900") -> Any:
    """Return what ``script``, the body of an asynchronous function, returns in the page.

    It has ``key(name)``, which presses a key, and ``frame()``, which waits until all is drawn.
    """
    changed = page.with_name(f"{page.stem}-tested.html")
    head, _, tail = page.read_text().rpartition("</body>")
    changed.write_text(head + _SCRIPT.format(script=script) + tail)
    done = subprocess.run(
        [
            *chromium_command(page.parent, window),
            *("--dump-dom", "--virtual-time-budget=20000"),
            changed.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    found = RESULT.search(done.stdout)
    assert found is not None, (done.stdout[-2000:], done.stderr[-2000:])
    return json.loads(html.unescape(found[1]))
