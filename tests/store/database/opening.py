"""A process that opens control databases at the same moments as others; light to import, for it is spawned."""

from __future__ import annotations

from multiprocessing.synchronize import Barrier

from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.types.records import Event


def open_each(urls: list[str], barrier: Barrier) -> None:
    for url in urls:
        barrier.wait(timeout=60)
        database = ControlDatabase(url)
        database.add_event(Event(at_s=1.0, kind="opened"))
        database.close()
