"""What the commands exit with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


EXIT_SUCCEEDED, EXIT_MISTAKE, EXIT_SOME_FAILED, EXIT_INTERRUPTED = 0, 1, 3, 130
