"""The Executor: runs plans in the sandbox on the worlds that it owns, one world a session. It calls no model.

A plan is one transaction: committed when it ran to its end, undone on any error, the log of calls included. A plan
that changed the world is noted under its task's key in the same transaction; a task that comes again with that key
(the turn was retried) gets the noted results and changes nothing. Tools are bound to the session's world; arguments
are validated at the boundary, and a tool that changes the world runs only as far as the customer's word covers it
(`Consent`), whoever let the plan through. A tool that fails in a way of its own (a bug) costs the plan, never the turn.

A plan that lost a race in a shared world (another one changed what it had read) is run again from its beginning, so
that it sees what is left; one that keeps losing ends with a sentence for the Planner. Tools of a world in memory run
on the event loop. Those of a database run in threads, because a statement may wait for another plan's lock, and that
plan must go on meanwhile: at most as many transactions run as there are threads and connections, so that whoever
holds a lock also has what it needs to end.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ParamSpec, TypeVar

from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from agentmill.agents.consent import Consent
from agentmill.agents.contracts import (
    ExecutorResult,
    ExecutorTask,
    SwitchRefused,
    UnknownSession,
    WorldUnavailable,
)
from agentmill.domains.base import Domain, Json, Tool, ToolError, World, WorldSettings
from agentmill.domains.database import CONNECTIONS, MEMORY, SENTENCES, fault_of, ping_worlds
from agentmill.domains.switching import Switch, UnknownSwitch, found, retold
from agentmill.plans.check import arguments_model
from agentmill.plans.parse import Plan, PlanError
from agentmill.plans.sandbox import Sandbox, SandboxError
from agentmill.threads import in_thread

P = ParamSpec("P")
T = TypeVar("T")
RACES = 8  # how often a plan may run that loses to others
RACE_DELAY_S, RACE_DELAY_MAX_S = 0.01, 0.1
_log = logging.getLogger(__name__)
_TOOL_FAULTS = (ToolError, ValueError, LookupError, ArithmeticError, SQLAlchemyError)


class _Open:
    """A session's world, the changes of the business in it, and the lock that keeps its plans one after the other."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.lock = asyncio.Lock()
        self.switches: tuple[str, ...] = ()


class Executor:
    """See the module. The sandbox belongs to the caller."""

    def __init__(self, domain: Domain, sandbox: Sandbox, worlds: WorldSettings | None = None) -> None:
        self.domain = domain
        self.sandbox = sandbox
        self.worlds = worlds or WorldSettings()
        self._sessions: dict[str, _Open] = {}
        self._threads: ThreadPoolExecutor | None = None
        if self.worlds.url != MEMORY:
            self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="world")
            self._places = asyncio.Semaphore(CONNECTIONS)

    async def open(self, session_id: str, world_seed: int) -> Json:
        """Open a world for a session and return its facts. In a shared world a session may be opened again.

        Raises:
            ValueError: when the session already has a world of its own.
            WorldUnavailable: when the world's database does not answer.
        """
        if session_id in self._sessions and not self.worlds.shared:
            raise ValueError(f"session={session_id!r} already has a world; close it first or use another id")
        async with self._place():
            world = await self._reached(self.domain.open_world, world_seed, session_id, self.worlds)
            facts = await self._read(_facts, world)
            if session_id in self._sessions and not self.worlds.shared:  # opened twice at the same time
                await self._reached(world.close)
                raise ValueError(f"session={session_id!r} already has a world; use another id")
        self._sessions.setdefault(session_id, _Open(world))
        return facts

    async def run(self, task: ExecutorTask) -> ExecutorResult:
        """Run one plan; `error` says what stopped it, in which case the world is as before.

        Raises:
            UnknownSession: when the session has no open world.
        """
        session = self._session(task.session)
        async with session.lock:
            self._session(task.session)  # it may have been closed while this plan waited
            async with self._place():
                domain = self.domain.under(session.switches)
                results, changed, error = await self._raced(session.world, task, domain)
                try:
                    facts = await self._read(_facts, session.world)
                except WorldUnavailable:
                    facts = None
            return ExecutorResult(results=results, error=error, facts=facts, changed=changed)

    async def switch(self, session_id: str, name: str) -> Json:
        """Make a change of the business in a session's own world and return its facts.

        It is applied once, however often it is asked for: it is noted in the transaction that makes it. From then on
        plans are bound to the tools of the changed business.

        Raises:
            UnknownSession: when the session has no open world.
            UnknownSwitch: when the pack has no such switch, or this world nothing that it could be about.
            SwitchRefused: when the world is shared.
            WorldUnavailable: when the world's database does not answer.
        """
        if self.worlds.shared:
            raise SwitchRefused(name)
        switch, value = found(self.domain.switches, name)
        session = self._session(session_id)
        async with session.lock:
            self._session(session_id)
            async with self._place():
                try:
                    await self._reached(_switch, session.world, switch, value)
                except (ToolError, ValueError, LookupError) as error:
                    raise UnknownSwitch(f"switch={name!r} cannot be made in this world: {error}") from error
                if name not in session.switches:
                    session.switches = (*session.switches, name)
                return await self._read(_facts, session.world)

    async def snapshot(self, session_id: str) -> Json:
        """The world's state as the domain's `assess` looks at it.

        Raises:
            UnknownSession: when the session has no open world.
            WorldUnavailable: when the world's database does not answer.
        """
        session = self._session(session_id)
        async with session.lock, self._place():
            return await self._read(_snapshot, session.world)

    async def close(self, session_id: str) -> None:
        """Drop a session's world.

        Raises:
            UnknownSession: when the session has no open world.
        """
        session = self._session(session_id)
        async with session.lock:
            self._sessions.pop(session_id, None)
            async with self._place():
                try:
                    await self._reached(session.world.close)
                except WorldUnavailable:
                    _log.warning("the world of session=%s could not be dropped: its database is away", session_id)

    async def ping(self) -> None:
        """Look that the worlds' database answers.

        Raises:
            WorldUnavailable: when it does not.
        """
        if self._threads is not None:
            async with self._place():
                await self._reached(ping_worlds, self.worlds)

    def _session(self, session_id: str) -> _Open:
        if session_id not in self._sessions:
            raise UnknownSession(session_id)
        return self._sessions[session_id]

    async def _raced(self, world: World, task: ExecutorTask, domain: Domain) -> tuple[Json, bool, str | None]:
        """The results of a plan and whether it changed the world, or why it did not run to its end.

        It runs again when another plan was faster. `domain` is the pack with the session's switches in force.
        """
        try:
            plan = Plan.parse(task.plan)
        except PlanError as error:
            return {}, False, error.sentence
        for race in range(RACES if self.worlds.shared else 1):
            try:
                return *await self._transaction(world, plan, task, domain), None
            except SandboxError as error:
                return {}, False, str(error)
            except SQLAlchemyError as error:
                fault = fault_of(error)
            except _TOOL_FAULTS as error:
                return {}, False, retold(str(error), domain.renames) or type(error).__name__
            if fault.kind != "conflict":
                break
            await asyncio.sleep(random.uniform(0, min(RACE_DELAY_S * 2**race, RACE_DELAY_MAX_S)))
        return {}, False, fault.sentence

    async def _transaction(self, world: World, plan: Plan, task: ExecutorTask, domain: Domain) -> tuple[Json, bool]:
        """The results of a plan that has run and is committed, and whether it changed the world.

        They are those noted where it had changed it before, under the same key: looked for before it runs, and
        again where it changed nothing or failed, because the same task may have been committed in between. Where
        both change the world, `keep` fails on the key of the later one, which loses the race.
        """
        changes = any(domain.tools[call.tool].changes for call in plan.calls if call.tool in domain.tools)
        key = task.key if changes else ""
        noted = await self._noted(world, key)
        if noted is not None:
            return noted, True
        try:
            results, changed = await self._committed(world, plan, task, key, domain)
        except (SandboxError, *_TOOL_FAULTS):
            noted = await self._noted(world, key)
            if noted is None:
                raise
            return noted, True
        noted = None if changed else await self._noted(world, key)
        return (results, changed) if noted is None else (noted, True)

    async def _noted(self, world: World, key: str) -> Json | None:
        """The results noted under a key; the look is a transaction of its own, which no plan waits for."""
        if not key:
            return None
        try:
            return await self._do(world.recall, key)
        finally:
            await self._do(world.rollback)

    async def _committed(
        self, world: World, plan: Plan, task: ExecutorTask, key: str, domain: Domain
    ) -> tuple[Json, bool]:
        done = False
        try:
            consent = Consent(domain, task.state)
            tools = [domain.tools[name] for name in domain.tools_of(task.state.requests)]
            results = await self.sandbox.run(plan, self._bound(world, tools, consent))
            if key and consent.used:
                await self._do(world.keep, key, results)
            await self._do(world.commit)
            done = True
            return results, consent.used
        finally:
            if not done:
                await self._do(world.rollback)

    def _bound(self, world: World, tools: list[Tool], consent: Consent) -> dict[str, Callable[..., Any]]:
        if self._threads is None:
            return {tool.name: partial(_call, tool, world, consent) for tool in tools}
        return {tool.name: partial(in_thread, self._threads, _call, tool, world, consent) for tool in tools}

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Wait until one more transaction may run."""
        if self._threads is None:
            yield
        else:
            async with self._places:
                yield

    async def _do(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._threads is None:
            return function(*args, **kwargs)
        return await in_thread(self._threads, function, *args, **kwargs)

    async def _read(self, read: Callable[[World], Json], world: World) -> Json:
        """What `read` finds; a transaction that only reads may lose a race too."""
        for _ in range(RACES):
            try:
                return await self._do(read, world)
            except SQLAlchemyError as error:
                if fault_of(error).kind != "conflict":
                    break
        raise WorldUnavailable(SENTENCES["unavailable"])

    async def _reached(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await self._do(function, *args, **kwargs)
        except SQLAlchemyError as error:
            fault_of(error)
            raise WorldUnavailable(SENTENCES["unavailable"]) from error


def _switch(world: World, switch: Switch, value: str) -> None:
    """Apply the world's part of a switch in one transaction, and note that it was."""
    key = f"switch:{switch.name}:{value}"
    try:
        if world.recall(key) is None:
            if switch.apply is not None:
                switch.apply(world, value)
            world.keep(key, {})
            world.commit()
    finally:
        world.rollback()


def _facts(world: World) -> Json:
    try:
        return world.facts()
    finally:
        world.rollback()  # ends the transaction that reading began


def _snapshot(world: World) -> Json:
    try:
        return world.snapshot()
    finally:
        world.rollback()


def _call(tool: Tool, world: World, consent: Consent, /, **given: Any) -> Any:
    """Call a tool with validated arguments and log the call with those that differ from their defaults."""
    try:
        arguments = arguments_model(tool).model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = ".".join(map(str, problem["loc"]))
        raise SandboxError("type", f"{tool.name} got a wrong {name}: {problem['msg']}") from error
    values = {name: getattr(arguments, name) for name in type(arguments).model_fields}
    consent.require(tool, values)
    try:
        result = tool.function(world, **values)
    except _TOOL_FAULTS:
        raise
    except Exception as error:  # the pack's code is not ours, and no bug of it may reach the customer
        _log.exception("the tool %s failed", tool.name)
        raise ToolError(f"{tool.name} does not work at the moment ({type(error).__name__}); do without it") from error
    world.record(tool.logged, arguments.model_dump(mode="json", exclude_defaults=True))
    return result
