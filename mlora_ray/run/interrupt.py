"""Ctrl-C and SIGTERM as a flag; the second one ends the process at once."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Self

from mlora_ray.types.exit_codes import EXIT_INTERRUPTED


class Interrupt:
    """While it is entered, SIGINT and SIGTERM only set `is_set`; entered or not, anybody may set it.

    Enter it in the main thread, after `ray.init`, which sets handlers too.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.is_set:
            os._exit(EXIT_INTERRUPTED)
        self.is_set = True
