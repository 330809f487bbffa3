"""Blocking work in a thread, awaited so that it is never abandoned half-way."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(pool: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `function` returns, run in one of the pool's threads.

    A cancelled caller still waits for it to end, so that what it works on (a session, a connection) is never in two
    hands at once.
    """
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(pool, lambda: function(*args, **kwargs))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        future.cancelled() or future.exception()  # seen, so that it is not reported as lost
        raise
