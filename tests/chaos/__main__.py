"""`make chaos SEEDS=20`: that many seeded runs; every plan is printed, and last `N runs, N identical`."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Iterator

from tests.chaos.plan import plan
from tests.chaos.suite import Suite, new_suite
from tests.postgres import PostgresServer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    seeds = list(range(given.first, given.first + given.seeds))
    server = PostgresServer.start() if any(plan(s).database == "postgresql" for s in seeds) else None
    try:
        num_identical = sum(_runs(seeds, server))
    finally:
        if server is not None:
            server.close()
    print(f"{given.seeds} runs, {num_identical} identical")
    return 0 if num_identical == given.seeds else 1


def _runs(seeds: list[int], server: PostgresServer | None) -> Iterator[bool]:
    """Whether each was identical. A run that fails may leave its cluster broken: the next gets a new one."""
    while seeds:
        with new_suite() as suite:
            is_whole = True
            while seeds and is_whole:
                is_whole = _run(suite, seeds.pop(0), server)
                yield is_whole


def _run(suite: Suite, seed: int, server: PostgresServer | None) -> bool:
    try:
        suite.run(seed, server)
    except Exception:  # noqa: BLE001 - counted, shown, and the next seed begins
        traceback.print_exc()
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
