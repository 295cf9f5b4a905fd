"""A user's driver, which may be killed: `python -m tests.chaos.driver FILE` submits and watches."""

from __future__ import annotations

import pickle
import sys
import time
from pathlib import Path

import ray
from ray.exceptions import RayError

from mlora_ray.actors.options import start_placement
from mlora_ray.types.service import SubmitRequest

CALL_S = 60.0


def main(file: Path) -> None:
    address, settings, specs = pickle.loads(file.read_bytes())
    ray.init(address=address, namespace="mlora", log_to_driver=False, logging_level="error")
    placement = start_placement(settings)
    ray.get(placement.submit.remote(SubmitRequest(specs=specs, command="chaos")), timeout=CALL_S)
    print("submitted", flush=True)
    names = tuple(spec.name for spec in specs)
    while True:
        try:
            if ray.get(placement.status.remote(names), timeout=CALL_S).phase == "done":
                return
        except RayError as error:  # it is restarted: ask again
            print(f"asks again: {type(error).__name__}", flush=True)
        time.sleep(0.5)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
