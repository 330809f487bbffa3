"""A function over many parts as Ray tasks, a bounded number at once: what one part takes is all the memory it takes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def in_parallel(work: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], at_once: int) -> Iterator[Any]:
    """The results of `work(*given)` for each of `arguments`, in their order. Ray is initialised already.

    A task whose worker was killed is done again: `work` must be able to run twice.
    """
    import ray

    task = ray.remote(num_cpus=1, max_retries=-1)(work)
    running: deque[Any] = deque()
    for given in arguments:
        if len(running) >= at_once:
            yield ray.get(running.popleft())
        running.append(task.remote(*given))
    while running:
        yield ray.get(running.popleft())
