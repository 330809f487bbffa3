"""Before any test imports Ray: the environment of a session, since Ray's core reads its authentication mode once.

And one PostgreSQL server for the whole test session, for the tests that ask for it.
"""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from cluster.session import prepare_environment
from tests.postgres import NoServer, PostgresServer

if TYPE_CHECKING:
    from tests.gateways import Make

prepare_environment()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server on loopback; the tests that need it are skipped, with the reason, where none can be."""
    try:
        server = PostgresServer()
    except NoServer as reason:
        print(f"no PostgreSQL: {reason}")
        pytest.skip(f"no PostgreSQL: {reason}")
    yield server
    server.remove()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread: products as small as a test's take longer in two that wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator["Make"]:
    """Makes gateways in this process: see `tests.gateways`."""
    from tests.gateways import making

    async with making() as make:
        yield make
