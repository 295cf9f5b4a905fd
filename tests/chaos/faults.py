"""How each kind of fault is done and mended. Every function returns when the cluster is whole again."""

from __future__ import annotations

import ctypes
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.chaos.drill import DONE_S, Drill
from tests.chaos.machines import kill, wait_for
from tests.chaos.plan import Fault, Moment, Plan
from tests.postgres import PostgresServer

AT_FDCWD, RENAME_EXCHANGE = -100, 2
DEAD_S = 30.0  # for Ray to call a silent node dead
MEND_S = 120.0


def disturb(plan: Plan, server: PostgresServer | None) -> Callable[[Drill], None]:
    """Everything of a plan, each moment when its time has come."""

    def run(drill: Drill) -> None:
        doing: list[_Doing] = []
        for moment in plan.moments:
            wait_for(partial(_is_time, drill, moment.at_share, doing), f"{moment.at_share:.0%} of all steps", DONE_S)
            time.sleep(moment.after_s)
            doing.extend(_start(moment, drill, server))
        for thread in doing:
            wait_for(thread.is_mended, f"the end of {thread.name}", MEND_S)

    return run


def _is_time(drill: Drill, share: float, doing: list[_Doing]) -> bool:
    for thread in doing:
        thread.is_mended()
    return drill.share_done() >= share or drill.is_done()


class _Doing(threading.Thread):
    def __init__(self, fault: Fault, drill: Drill, server: PostgresServer | None) -> None:
        super().__init__(name=str(fault), daemon=True)
        self._fault, self._drill, self._server = fault, drill, server
        self.error: BaseException | None = None

    def is_mended(self) -> bool:
        """Asked by the main thread, which does what this one wants started. Raises what it raised."""
        self._drill.machines.serve()
        if self.error is not None:
            raise self.error
        return not self.is_alive()

    def run(self) -> None:
        try:
            do(self._fault, self._drill, self._server)
        except BaseException as error:  # noqa: BLE001 - raised by who joins
            self.error = error


def _start(moment: Moment, drill: Drill, server: PostgresServer | None) -> list[_Doing]:
    doing = [_Doing(fault, drill, server) for fault in moment.faults]
    for thread in doing:
        thread.start()
    return doing


def do(fault: Fault, drill: Drill, server: PostgresServer | None = None) -> None:
    if fault.kind == "database_away":
        lock_database(fault, drill) if server is None else _stop_server(fault, drill, server)
    else:
        BY_KIND[fault.kind](fault, drill)


# -- processes


def kill_host(fault: Fault, drill: Drill) -> None:
    if hosts := drill.machines.actors("HostActor"):
        kill(sorted(hosts, key=lambda p: p.pid)[fault.target % len(hosts)])


def hang_host(fault: Fault, drill: Drill) -> None:
    hosts = sorted(drill.machines.actors("HostActor"), key=lambda p: p.pid)
    if hosts:
        process = hosts[fault.target % len(hosts)]
        _signal(process.pid, signal.SIGSTOP)
        time.sleep(drill.settings.host_timeout_s + 1.0 + fault.lasts_s)
        _signal(process.pid, signal.SIGCONT)


def kill_placement(fault: Fault, drill: Drill) -> None:
    for process in drill.machines.actors("PlacementActor"):
        kill(process)


def kill_driver(fault: Fault, drill: Drill) -> None:
    drill.kill_driver()
    time.sleep(fault.lasts_s)
    drill.start_driver()


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # another fault was faster


# -- nodes and the GCS


def kill_node(fault: Fault, drill: Drill) -> None:
    slot = drill.machines.take(fault.target)
    drill.machines.kill_node(slot)
    time.sleep(fault.lasts_s)
    drill.machines.add_node(slot)


def drain_node(fault: Fault, drill: Drill) -> None:
    slot = drill.machines.take(fault.target)
    notice_s = 2.0 * fault.lasts_s
    drill.machines.drain_node(slot, notice_s)
    time.sleep(notice_s)
    drill.machines.kill_node(slot)
    drill.machines.add_node(slot)


def cut_node(fault: Fault, drill: Drill) -> None:
    machines = drill.machines
    slot = machines.take(fault.target)
    node_id = machines.nodes[slot].node_id
    machines.signal_raylet(slot, signal.SIGSTOP)
    wait_for(lambda: not machines.is_node_alive(node_id), "the end of a node that is cut off", DEAD_S)
    time.sleep(fault.lasts_s)
    machines.signal_raylet(slot, signal.SIGCONT)
    machines.wait_for_raylet_to_end(slot)
    machines.add_node(slot)


def kill_gcs(fault: Fault, drill: Drill) -> None:
    drill.machines.restart_gcs(fault.lasts_s)


# -- storage and database


def storage_away(fault: Fault, drill: Drill) -> None:
    """A file stands where the folder of the bundles was: nothing can be read or written below it."""
    stand_in = drill.folder / "stand-in"
    stand_in.touch()
    wait_for(drill.bundles.is_dir, "the folder of the bundles")
    exchange(drill.bundles, stand_in)
    try:
        time.sleep(fault.lasts_s)
    finally:
        exchange(drill.bundles, stand_in)
    stand_in.unlink()


def exchange(one: Path, other: Path) -> None:
    """Swap two names at once."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, bytes(one), AT_FDCWD, bytes(other), RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one))


def lock_database(fault: Fault, drill: Drill) -> None:
    """Another process writes, and does not end."""
    path = drill.settings.database_url.removeprefix("sqlite:///")
    connection = sqlite3.connect(path, timeout=30.0, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(fault.lasts_s)
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def _stop_server(fault: Fault, drill: Drill, server: PostgresServer) -> None:
    server.stop()
    time.sleep(fault.lasts_s)
    drill.machines.on_main(server.start_again)


BY_KIND: dict[str, Callable[[Fault, Drill], Any]] = {
    "kill_host": kill_host,
    "kill_node": kill_node,
    "kill_placement": kill_placement,
    "kill_driver": kill_driver,
    "kill_gcs": kill_gcs,
    "drain_node": drain_node,
    "hang_host": hang_host,
    "cut_node": cut_node,
    "storage_away": storage_away,
}
