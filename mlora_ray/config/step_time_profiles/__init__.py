"""Step-time profiles: JSON files that ship with the package, and any file of the same form."""

from mlora_ray.config.step_time_profiles.reading import SHIPPED, read_profile, write_profile

__all__ = ["SHIPPED", "read_profile", "write_profile"]
