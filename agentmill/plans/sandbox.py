"""Runs plans in pydantic-monty worker processes; tools are called on the caller's event loop, and may be coroutines.

A plan runs until it calls a tool, hands the call over, and goes on with the result: sandboxed code reaches nothing
but the tools that it was given. Time, memory and the number of calls are limited. A worker that dies or does not
answer is replaced, and costs only the plan that it ran.

The synchronous pool is driven step by step from a small thread pool: on two cores a plan of three calls took 0.77 ms
(median of 200), `AsyncMonty` 0.70 ms. With `AsyncMonty` 2 of 17 processes were aborted at exit (status 134), with this
0 of 10; the cause was not found (pydantic-monty 1.4.0, look again at a later version).
"""

import ast
import asyncio
import inspect
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from pydantic_monty import (
    CollectString,
    FunctionSnapshot,
    Monty,
    MontyComplete,
    MontyCrashedError,
    MontyError,
    MontySession,
    NameLookupSnapshot,
    ResourceLimits,
)

from agentmill.domains.base import Json
from agentmill.plans.parse import Plan
from agentmill.threads import in_thread

SandboxFault = Literal["time", "memory", "calls", "type", "runtime", "crash"]
Tools = Mapping[str, Callable[..., Any]]
_GRACE_S = 1.0
_SPARE_SUSPENSIONS = 64


@dataclass(frozen=True)
class Limits:
    """What one plan may use. `seconds` is time in the sandbox, without the tools'; `memory_mib` is its heap."""

    seconds: float = 0.5
    memory_mib: int = 16
    calls: int = 32


class SandboxError(Exception):
    """A plan was stopped. `kind` says by what; the message is a sentence for the Planner."""

    def __init__(self, kind: SandboxFault, message: str) -> None:
        super().__init__(message)
        self.kind: SandboxFault = kind


class Sandbox:
    """A pool of worker processes; use as `async with Sandbox() as sandbox`.

    At most `processes` plans run at a time, others wait. Safe for many conversations on one event loop.
    """

    def __init__(self, processes: int = 2, limits: Limits | None = None) -> None:
        self.processes = processes
        self.limits = limits or Limits()
        self._pool: Monty | None = None

    async def __aenter__(self) -> "Sandbox":
        self._turns = asyncio.Semaphore(self.processes)
        self._threads = ThreadPoolExecutor(self.processes, thread_name_prefix="sandbox")
        deadline = self.limits.seconds + 4 * _GRACE_S
        pool = Monty(min_processes=1, max_processes=self.processes, request_timeout=deadline)
        self._pool = await self._in_thread(pool.__enter__)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._pool is not None
        await self._in_thread(self._pool.__exit__, None, None, None)
        self._threads.shutdown()
        self._pool = None

    async def run(self, plan: Plan, tools: Tools, limits: Limits | None = None) -> Json:
        """Run a plan and return {variable: result} for the variables whose tool calls ran.

        Raises:
            SandboxError: when a limit was reached, a name or an index was wrong, or the worker died.
            Whatever a tool raises, unchanged.
        """
        return await self.run_code(plan.code, tools, limits, names=_call_sites(plan))

    async def run_code(
        self, code: str, tools: Tools, limits: Limits | None = None, names: Mapping[int, str] | None = None
    ) -> Json:
        """Run any code under the limits; `names` maps the position of a call (in bytes) to the key of its result."""
        if self._pool is None:
            raise RuntimeError("the sandbox is closed; use it inside `async with Sandbox() as sandbox`")
        limits = limits or self.limits
        async with self._turns:
            session = self._pool.checkout(limits=_resource_limits(limits), os_policy={"sleep": "zero"})
            try:
                await self._in_thread(session.__enter__)
                return await self._drive(session, code, tools, limits, names or {})
            except MontyError as error:
                raise _fault(error, limits) from error
            finally:
                await self._in_thread(session.__exit__, None, None, None)

    async def _drive(
        self, session: MontySession, code: str, tools: Tools, limits: Limits, names: Mapping[int, str]
    ) -> Json:
        results: Json = {}
        calls = 0
        step = await self._in_thread(lambda: session.feed_start(code, print_callback=CollectString()))
        while not isinstance(step, MontyComplete):
            if isinstance(step, NameLookupSnapshot):
                raise SandboxError("type", f"{step.variable_name} is not assigned before it is used")
            if not isinstance(step, FunctionSnapshot) or step.is_os_function:
                raise SandboxError("runtime", "the plan reaches for the system; only tools can be called")
            calls += 1
            if calls > limits.calls:
                raise SandboxError("calls", f"the plan makes more than {limits.calls} tool calls")
            value = await _call(step, tools)
            if step.position.start in names:
                results[names[step.position.start]] = value
            resume = step.resume
            step = await self._in_thread(lambda resume=resume, value=value: resume({"return_value": value}))
        return results

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await in_thread(self._threads, function, *arguments)


async def _call(step: FunctionSnapshot, tools: Tools) -> Any:
    name = str(step.function_name)
    if name not in tools or step.object_id is not None:
        raise SandboxError("type", f"there is no tool {name}")
    if step.args:
        raise SandboxError("type", f"{name} takes keyword arguments only")
    value = tools[name](**step.kwargs)
    if inspect.isawaitable(value):
        value = await value
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise SandboxError("type", f"{name} returned what is no JSON: {error}") from error


def _resource_limits(limits: Limits) -> ResourceLimits:
    return {
        "max_feed_duration_secs": limits.seconds,
        "max_memory": limits.memory_mib * 2**20,
        "max_suspensions": limits.calls + _SPARE_SUSPENSIONS,
        "max_recursion_depth": 100,
    }


def _fault(error: MontyError, limits: Limits) -> SandboxError:
    if isinstance(error, MontyCrashedError):
        if error.timed_out:
            return SandboxError("time", f"the plan did not end within {limits.seconds:g} s")
        return SandboxError("crash", "the sandbox's worker process died")
    inner = error.exception()
    if isinstance(inner, TimeoutError):
        return SandboxError("time", f"the plan did not end within {limits.seconds:g} s")
    if isinstance(inner, MemoryError):
        return SandboxError("memory", f"the plan needs more than {limits.memory_mib} MiB")
    if "suspension limit" in str(inner):
        return SandboxError("calls", f"the plan makes more than {limits.calls} tool calls")
    if isinstance(inner, NameError | TypeError):
        return SandboxError("type", f"{type(inner).__name__}: {inner}")
    return SandboxError("runtime", f"{type(inner).__name__}: {inner}")


def _call_sites(plan: Plan) -> dict[int, str]:
    """The position in bytes of each assigned call in `plan.code`, with its variable."""
    starts = [0]
    for line in plan.code.split("\n"):
        starts.append(starts[-1] + len(line.encode()) + 1)
    return {_position(call.node, starts): call.variable for call in plan.calls if call.variable}


def _position(node: ast.Call, starts: list[int]) -> int:
    return starts[node.lineno - 1] + node.col_offset
