"""Named sets of autoscale numbers: what a user wants, as the numbers that do it.

| number | speed | balanced | cost | quality | custom | what it does |
|---|---|---|---|---|---|---|
| `min_hosts` | 1 | 0 | 0 | 1 | 0 | hosts that stay when there is nothing to do |
| `max_hosts` | 16 | 8 | 4 | 8 | 1 | hosts there ever are, those that start and drain included |
| `max_cost_per_hour` | 0 | 0 | 0 | 0 | 0 | what they may cost together; 0: no bound |
| `target_wait_s` | 120 | 900 | 7,200 | 900 | 300 | hosts are added while the work that is there would take longer |
| `jobs_per_host` | 4 | 8 | 16 | 2 | 8 | the same, before any speed has been measured |
| `up_delay_s` | 0 | 15 | 120 | 0 | 0 | a need must have stood so long before a host is launched |
| `down_delay_s` | 600 | 300 | 60 | 900 | 120 | a host must have been one too many for so long |
| `spot_share` | 0 | 0.5 | 1 | 0 | 0 | at most this share of the hosts is spot |
| `is_forecasting` | no | no | no | no | no | hosts are launched ahead of arrivals that came at this hour before |

- `speed`: the work is spread over as many hosts as it pays for, at once; a host stays warm for ten minutes, one always.
- `balanced`: the work that is there takes about a quarter of an hour; half of the hosts may be spot machines.
- `cost`: few, full hosts, spot machines first, gone a minute after they have nothing to do. Work may take hours.
- `quality`: the steadiest: no spot machines, few neighbours, one host always warm. It does **not** train better
  adapters: an adapter's bits depend on its own job alone, under every profile.
- `custom`: the defaults of `AutoscaleSettings`; one host, to be changed number by number.

No profile sets a bound in money: `max_cost_per_hour` is the user's own. A host type's own `max_hosts` binds as well,
and any number may be changed beside the profile's name.
"""

from __future__ import annotations

from mlora_ray.types import AutoscaleSettings

PROFILES: dict[str, AutoscaleSettings] = {
    "speed": AutoscaleSettings(
        profile="speed", min_hosts=1, max_hosts=16, target_wait_s=120.0, jobs_per_host=4, down_delay_s=600.0
    ),
    "balanced": AutoscaleSettings(
        profile="balanced", max_hosts=8, target_wait_s=900.0, up_delay_s=15.0, down_delay_s=300.0, spot_share=0.5
    ),
    "cost": AutoscaleSettings(
        profile="cost",
        max_hosts=4,
        target_wait_s=7200.0,
        jobs_per_host=16,
        up_delay_s=120.0,
        down_delay_s=60.0,
        spot_share=1.0,
    ),
    "quality": AutoscaleSettings(
        profile="quality", min_hosts=1, max_hosts=8, target_wait_s=900.0, jobs_per_host=2, down_delay_s=900.0
    ),
    "custom": AutoscaleSettings(),
}
