"""One cluster, and one undisturbed run, for the chaos tests of a module and a number of steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import postgres
from tests.chaos import machines
from tests.chaos.suite import Suite, new_suite


@pytest.fixture(scope="module")
def suite(request: pytest.FixtureRequest) -> Iterator[Suite]:
    """Its parameter: how many steps each job takes."""
    try:
        with new_suite(request.param) as made:
            yield made
    except machines.NotInstalled as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.PostgresServer]:
    try:
        server = postgres.PostgresServer.start()
    except postgres.NotInstalled as missing:
        pytest.skip(str(missing))
    yield server
    server.close()
