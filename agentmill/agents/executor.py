"""The Executor: runs plans in the sandbox on the worlds that it owns, one world a session. It calls no model.

A plan is one transaction: committed when it ran to its end, undone on any error, the log of calls included. Tools
are bound to the session's world; arguments are validated at the boundary, and a tool that changes the world does
not run in a state that is not confirmed, whoever let the plan through.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from agentmill.agents.contracts import ExecutorResult, ExecutorTask, UnknownSession
from agentmill.agents.state import DialogueState
from agentmill.domains.base import Domain, Json, Tool, ToolError, World
from agentmill.plans.check import CONFIRM_FIRST, arguments_model
from agentmill.plans.parse import Plan, PlanError
from agentmill.plans.sandbox import Sandbox, SandboxError

_TOOL_FAULTS = (ToolError, ValueError, LookupError, ArithmeticError, SQLAlchemyError)


class _Open:
    """A session's world and the lock that keeps its plans one after the other."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.lock = asyncio.Lock()


class Executor:
    """See the module. The sandbox belongs to the caller."""

    def __init__(self, domain: Domain, sandbox: Sandbox) -> None:
        self.domain = domain
        self.sandbox = sandbox
        self._sessions: dict[str, _Open] = {}

    async def open(self, session_id: str, world_seed: int) -> Json:
        """Open a fresh world for a session and return its facts.

        Raises:
            ValueError: when the session already has a world.
        """
        if session_id in self._sessions:
            raise ValueError(f"session={session_id!r} already has a world; close it first or use another id")
        world = self.domain.open_world(world_seed)
        self._sessions[session_id] = _Open(world)
        return world.facts()

    async def run(self, task: ExecutorTask) -> ExecutorResult:
        """Run one plan; `error` says what stopped it, in which case the world is as before.

        Raises:
            UnknownSession: when the session has no open world.
        """
        session = self._session(task.session)
        async with session.lock:
            self._session(task.session)  # it may have been closed while this plan waited
            results, error = await self._transaction(session.world, task)
            return ExecutorResult(results=results, error=error, facts=session.world.facts())

    async def snapshot(self, session_id: str) -> Json:
        """The world's state as the domain's `assess` looks at it."""
        session = self._session(session_id)
        async with session.lock:
            return session.world.snapshot()

    async def close(self, session_id: str) -> None:
        """Drop a session's world."""
        session = self._session(session_id)
        async with session.lock:
            session.world.close()
            self._sessions.pop(session_id, None)

    def _session(self, session_id: str) -> _Open:
        if session_id not in self._sessions:
            raise UnknownSession(session_id)
        return self._sessions[session_id]

    async def _transaction(self, world: World, task: ExecutorTask) -> tuple[Json, str | None]:
        done = False
        try:
            results = await self.sandbox.run(Plan.parse(task.plan), self._bound(world, task.state))
            world.commit()
            done = True
        except PlanError as error:
            return {}, error.sentence
        except SandboxError as error:
            return {}, str(error)
        except _TOOL_FAULTS as error:
            return {}, str(error) or type(error).__name__
        finally:
            if not done:
                world.rollback()
        return results, None

    def _bound(self, world: World, state: DialogueState) -> dict[str, Callable[..., Any]]:
        intent = self.domain.intents.get(state.intent)
        names = intent.tools if intent else ()
        return {name: partial(_call, self.domain.tools[name], world, state) for name in names}


def _call(tool: Tool, world: World, state: DialogueState, /, **given: Any) -> Any:
    """Call a tool with validated arguments and log the call with those that differ from their defaults."""
    if tool.changes and not state.confirmed:
        raise SandboxError("type", f"{CONFIRM_FIRST}: {tool.name} changes the world before the customer confirmed")
    try:
        arguments = arguments_model(tool).model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = ".".join(map(str, problem["loc"]))
        raise SandboxError("type", f"{tool.name} got a wrong {name}: {problem['msg']}") from error
    result = tool.function(world, **{name: getattr(arguments, name) for name in type(arguments).model_fields})
    world.record(tool.name, arguments.model_dump(mode="json", exclude_defaults=True))
    return result
