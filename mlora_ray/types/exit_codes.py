"""What the commands exit with."""

from __future__ import annotations

EXIT_SUCCEEDED, EXIT_MISTAKE, EXIT_SOME_FAILED, EXIT_DIFFERENT, EXIT_INTERRUPTED = 0, 1, 3, 4, 130
