"""How many tokens a host's packed rows hold: tLoRA's control of its nano-batch count, on rows.

tLoRA (arXiv 2602.07263) adds 4 to the count while the step time falls by more than tau, else goes to
max(1, floor(N / 2)). Here N counts tiles of 256 tokens, and what must fall is the time a token takes. A host begins
with what memory allows. Its halves come first, all of them, for past a cache the time falls at once or not at all; from
the best the size grows by 4 tiles (less where N is small) as long as that helps. Each is tried beside the best so far,
row by row in turn, so that a machine that slows down slows both. Then the size stands, until after many rows all of it
is tried again.
"""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass

TILE = 256  # tokens: base GEMMs run in tiles of so many rows
GROW_TILES = 4
TAU = 0.02  # of the time a token takes: the noise of a median of 12 rows on a quiet machine is about 1%
ROWS = 12  # of each of two sizes that are compared
SKIPPED = 2  # first rows of a size: kernels are made for new shapes
STANDS_ROWS = 5000  # full ones: an hour or two on a CPU
MEMORY = "what memory allows"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowMeasurement:
    """One packed row that ran through."""

    num_tokens: int  # without padding
    seconds: float
    room: int  # tokens it could hold
    is_full: bool  # no other says anything of its size
    token_budget: int  # tokens that memory allows now


@dataclass(frozen=True, slots=True, kw_only=True)
class RowControl:
    """What is chosen, and what is being tried. `probe` of 0: nothing is."""

    row_tokens: int
    token_budget: int
    why: str
    probe: int = 0
    is_growing: bool = False
    above: int = 0  # while it shrinks: the size tried before `probe`
    ceiling: int = 0  # while it grows: the next larger size that was tried; 0: none was
    rival: int = 0  # the best of the sizes that were not chosen
    rival_more: float = 0.0  # how much longer a token takes there, of the chosen one's time
    row_s: tuple[float, ...] = ()  # seconds a token, of full rows of `row_tokens`
    probe_s: tuple[float, ...] = ()
    num_stood: int = 0  # full rows since the size was last tried

    @property
    def next_room(self) -> int:
        """Tokens that the next row may hold."""
        return self.probe if self.probe and len(self.probe_s) < len(self.row_s) else self.row_tokens


def start_control(token_budget: int) -> RowControl:
    """Rows as large as memory allows, and a smaller size to try."""
    return _begin(RowControl(row_tokens=token_budget, token_budget=token_budget, why=MEMORY))


def control_rows(state: RowControl, row: RowMeasurement) -> tuple[int, str, RowControl]:
    """(tokens that the next row may hold, why the size that is chosen was, the new state)."""
    if row.token_budget < state.token_budget:
        state = _fall(state, row.token_budget)
    elif row.is_full and row.num_tokens > 0 and row.seconds > 0:
        state = _take(state, row.room, row.seconds / row.num_tokens)
    return state.next_room, state.why, state


def _fall(state: RowControl, budget: int) -> RowControl:
    """Memory was short."""
    if budget >= state.row_tokens:
        return _stand(dataclasses.replace(state, token_budget=budget))
    return _stand(RowControl(row_tokens=budget, token_budget=budget, why=f"{MEMORY} since it was short"))


def _take(state: RowControl, room: int, token_s: float) -> RowControl:
    if not state.probe:
        state = dataclasses.replace(state, num_stood=state.num_stood + 1)
        return _begin(state) if state.num_stood >= STANDS_ROWS else state
    if room == state.row_tokens:
        state = dataclasses.replace(state, row_s=(*state.row_s, token_s))
    elif room == state.probe:
        state = dataclasses.replace(state, probe_s=(*state.probe_s, token_s))
    return _judge(state) if min(len(state.row_s), len(state.probe_s)) >= SKIPPED + ROWS else state


def _judge(state: RowControl) -> RowControl:
    now_s, tried_s = (statistics.median(s[SKIPPED:]) for s in (state.row_s, state.probe_s))
    if tried_s < (1 - TAU) * now_s:
        chosen = dataclasses.replace(state, row_tokens=state.probe)
        return _go_on(_against(chosen, state.row_tokens, now_s / tried_s - 1), is_better=True)
    more = tried_s / now_s - 1
    is_rival = not state.rival or more < state.rival_more
    return _go_on(_against(state, state.probe, more) if is_rival else state, is_better=False)


def _against(state: RowControl, rival: int, more: float) -> RowControl:
    why = f"in rows of {rival:,} a token takes {abs(more):.0%} {'more' if more > 0 else 'less'}"
    return dataclasses.replace(state, rival=rival, rival_more=more, why=why)


def _go_on(state: RowControl, is_better: bool) -> RowControl:
    if state.is_growing:
        return _grow(state) if is_better else _stand(state)
    ceiling = state.above if is_better else state.ceiling
    smaller = _half(state.probe)
    if smaller < state.probe:
        return _try(dataclasses.replace(state, ceiling=ceiling, above=state.probe), smaller)
    return _grow(dataclasses.replace(state, ceiling=ceiling, is_growing=True))


def _begin(state: RowControl) -> RowControl:
    smaller = _half(state.row_tokens)
    state = dataclasses.replace(state, is_growing=False, above=state.row_tokens, ceiling=0, rival=0)
    return _try(state, smaller) if smaller < state.row_tokens else _grow(dataclasses.replace(state, is_growing=True))


def _half(tokens: int) -> int:
    return max(1, tokens // TILE // 2) * TILE


def _grow(state: RowControl) -> RowControl:
    tiles = state.row_tokens // TILE
    larger = min((tiles + max(1, min(GROW_TILES, tiles // 2))) * TILE, state.token_budget)
    is_open = state.row_tokens < larger and (not state.ceiling or larger < state.ceiling)
    return _try(state, larger) if is_open else _stand(state)


def _try(state: RowControl, probe: int) -> RowControl:
    return dataclasses.replace(state, probe=probe, row_s=(), probe_s=(), num_stood=0)


def _stand(state: RowControl) -> RowControl:
    return _try(state, 0)
