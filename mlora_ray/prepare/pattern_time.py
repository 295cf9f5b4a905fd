"""Regular expressions that take forever on the base's module names, found in a process that can be ended.

`re` cannot be stopped from outside, and a pattern such as `([a-z.]+)+!` takes longer than anybody waits.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence

LIMIT_S = 2.0  # for all patterns together, on all names; an honest one takes microseconds
MOST_SHOWN = 3  # slow ones; then the others wait until these are mended

# Each as PEFT matches it: the whole name (`target_modules`), or the end of it (`rank_pattern`).
_MATCH = """
import json, re, sys
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    for form in (f"({pattern})", f"(?:.*[.])?({pattern})$"):
        try:
            matches = re.compile(form).fullmatch
        except re.error:
            continue
        for name in names:
            matches(name)
    print(flush=True)
"""


def slow_patterns(patterns: Iterable[str], names: Sequence[str]) -> list[str]:
    """Those of `patterns` that are not done with `names` in time; at most `MOST_SHOWN`."""
    left = sorted({pattern for pattern in patterns if re.search(r"[*+{]", pattern)})  # nothing else repeats
    slow: list[str] = []
    while left and len(slow) < MOST_SHOWN:
        done = _num_done(left, names)
        slow += left[done : done + 1]
        left = left[done + 1 :]
    return slow


def _num_done(patterns: list[str], names: Sequence[str]) -> int:
    asked = json.dumps([patterns, list(names)])
    command = [sys.executable, "-I", "-S", "-c", _MATCH]
    try:
        done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    except subprocess.TimeoutExpired as error:
        return len((error.stdout or b"").splitlines())
    return len(done.stdout.splitlines())
