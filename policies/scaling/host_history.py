"""What the autoscaler learns from one view after another: speeds, numerics, who is where, how long a need has stood."""

from __future__ import annotations

from collections.abc import Mapping

from mlora_ray.policies.scaling.demand import HostHistory
from mlora_ray.types import AdapterView, ClusterView, HostView

RATE_HALVES_S = 600.0  # a full host that is slower than hosts once were is believed so slowly
RATE_STANDS_S = 30.0  # a first speed, measured on a host that warms up, counts after so long

Rates = tuple[tuple[str, str, float, float], ...]
Numerics = tuple[tuple[str, str], ...]


def jobs_on(view: ClusterView) -> dict[str, tuple[AdapterView, ...]]:
    """The jobs of each host that has any, placed on it or resident."""
    group = {name: host.id for host in view.hosts for name in host.group}
    found: dict[str, list[AdapterView]] = {}
    for adapter in view.adapters:
        if (host := adapter.host or group.get(adapter.id)) and not adapter.state.is_final:
            found.setdefault(host, []).append(adapter)
    return {host: tuple(jobs) for host, jobs in found.items()}


def learn_rates(
    rates: Rates,
    view: ClusterView,
    on_host: Mapping[str, tuple[AdapterView, ...]],
    elapsed_s: float,
    jobs_per_host: int,
) -> Rates:
    """What a host of a type does with a base: the most that was seen, lowered only by full hosts that do less.

    A host with few jobs is slow because its steps are small; that says nothing of what it could do.
    """
    held = {(base, name): (rate, since) for base, name, rate, since in rates}
    seen: dict[tuple[str, str], list[HostView]] = {}
    for host in view.hosts:
        if host.state == "alive" and host.tokens_per_s > 0 and on_host.get(host.id):
            seen.setdefault((host.base, host.host_type), []).append(host)
    for key, hosts in seen.items():
        mean = sum(h.tokens_per_s for h in hosts) / len(hosts)
        old, since_s = held.get(key, (mean, view.now_s))
        are_full = all(len(on_host[h.id]) >= jobs_per_host for h in hosts)
        if are_full:
            old *= 0.5 ** (max(0.0, elapsed_s) / RATE_HALVES_S)
        held[key] = (max(mean, old), since_s)
    return tuple((*key, *held[key]) for key in sorted(held))


def learn_numerics(numerics: Numerics, view: ClusterView) -> Numerics:
    seen = {(host.host_type, host.numerics) for host in view.hosts if host.host_type and host.numerics}
    return tuple(sorted({*numerics, *seen}))


def learned(rates: Rates, numerics: Numerics, now_s: float) -> HostHistory:
    """Speeds that have stood for a while, and the numerics of each host type."""
    stood = {(base, name): rate for base, name, rate, since in rates if now_s - since >= RATE_STANDS_S}
    of_type: dict[str, frozenset[str]] = {}
    for name, one in numerics:
        of_type[name] = of_type.get(name, frozenset()) | {one}
    return HostHistory(stood, of_type)


def standing(before: tuple[float, ...], number: int, now_s: float) -> list[float]:
    """Since when one, two, ... `number` things are so: those that were stand on, the others begin now."""
    kept = list(before[:number])
    return kept + [now_s] * (number - len(kept))
