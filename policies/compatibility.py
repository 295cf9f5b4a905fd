"""Whether a host can train an adapter at all: its base, its device, its bits. The one place that says so.

Whether it is alive and has room is asked apart, since each policy counts room in its own way.
"""

from __future__ import annotations

from typing import Protocol


class AdapterNeeds(Protocol):
    @property
    def base(self) -> str: ...

    @property
    def device_type(self) -> str:
        """Empty: any."""
        ...

    @property
    def numerics(self) -> str:
        """Of the hosts it has trained on; empty: it has not begun."""
        ...


class HostOffers(Protocol):
    @property
    def base(self) -> str: ...

    @property
    def device_type(self) -> str: ...

    @property
    def numerics(self) -> str: ...


def why_not(adapter: AdapterNeeds, host: HostOffers) -> str:
    """Why this host can neither begin it nor go on with it to the same bits; empty where it can."""
    if why := why_not_from_scratch(adapter, host):
        return why
    if adapter.numerics not in ("", host.numerics):
        return "it would compute other bits than the adapter began with"
    return ""


def why_not_from_scratch(adapter: AdapterNeeds, host: HostOffers) -> str:
    """Why this host could not even begin it; empty where it could. For hosts whose bits are not known yet."""
    if host.base != adapter.base:
        return f"it holds {host.base}, the adapter needs {adapter.base}"
    if adapter.device_type not in ("", host.device_type):
        return f"it is {host.device_type}, the adapter wants {adapter.device_type}"
    return ""
