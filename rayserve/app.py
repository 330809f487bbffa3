"""The whole served system as one Ray Serve application: a pure function of configuration.

    gateway (HTTP) -> understander, planner, evaluator, explainer -> engine
                   -> executor (sandbox and worlds)

`build_app` is for code; `build` takes the plain mapping that `serve run rayserve.app:build key=value` and a Serve
configuration file give. Neither looks at the machine: what does is `rayserve.serve`.
"""

import asyncio
import json
from typing import Any

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.util.metrics import Counter

from agentmill.agents.contracts import WorldUnavailable
from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.config import ConfigError, validate
from agentmill.domains.base import load_domain
from agentmill.models.chat import ChatReply, ChatRequest, ModelError
from agentmill.records import GateMark
from rayserve.agents import AgentServer, ExecutorServer
from rayserve.gateway import http_app
from rayserve.remote import RemoteEvaluator, RemoteExecutor, RemoteExplainer, RemotePlanner, RemoteUnderstander
from rayserve.settings import AgentSettings, AppArguments, GatewaySettings, ServeSettings
from rayserve.turns import Conversations

PING_TIMEOUT_S = 5.0
GRACE_S = 5.0  # for the turns in progress when a deployment is stopped
SANDBOX_PROCESSES = 2
HEADROOM = 64  # requests that Serve lets through beyond the gateway's own limit, so that the gateway refuses them


def build(args: dict[str, Any]) -> serve.Application:
    """The application for a plain mapping; nested settings may be JSON text, as a command line gives them.

    Raises:
        ConfigError: when a key or a value is wrong.
    """
    data = {key: _decoded(key, value) for key, value in args.items()}
    return build_app(validate(AppArguments, data, "rayserve.app:build"))


def build_app(args: AppArguments) -> serve.Application:
    """The application for checked arguments."""
    settings = args.serve
    engine = None
    if settings.model.kind == "engine":
        from rayserve import engine as engines

        engine = engines.build(settings.engine, args.model_dir, on_gpu=args.on_gpu)
    agents = {name: _agent(name, args, engine) for name in ("understander", "planner", "evaluator", "explainer")}
    executor = serve.deployment(ExecutorServer, name="Executor", num_replicas=1, **_options(settings.agents)).bind(
        args.domain, SANDBOX_PROCESSES, args.system.world
    )
    gateway = serve.deployment(GatewayServer, name="Gateway", num_replicas=1, **_options(settings.gateway))
    gateway = gateway.options(max_ongoing_requests=settings.gateway.max_ongoing_requests + HEADROOM)
    return gateway.bind(settings, args.system, args.domain, executor=executor, **agents)


@serve.ingress()
class GatewayServer:
    """The HTTP gateway: exactly one replica, because conversations are in its memory."""

    def __init__(
        self,
        settings: ServeSettings,
        system: TeamSettings,
        domain: str,
        *,
        understander: DeploymentHandle,
        planner: DeploymentHandle,
        evaluator: DeploymentHandle,
        executor: DeploymentHandle,
        explainer: DeploymentHandle,
    ) -> None:
        retry = settings.agents
        self._asking = {
            "understander": RemoteUnderstander("understander", understander, retry),
            "planner": RemotePlanner("planner", planner, retry),
            "evaluator": RemoteEvaluator("evaluator", evaluator, retry),
            "explainer": RemoteExplainer("explainer", explainer, retry),
        }
        self._executor = RemoteExecutor(executor, system.world, retry)
        team = Team(
            load_domain(domain),
            RemoteUnderstander("understander", understander, retry),
            RemotePlanner("planner", planner, retry),
            RemoteEvaluator("evaluator", evaluator, retry),
            self._executor,
            RemoteExplainer("explainer", explainer, retry),
            system,
        )
        self._plans = Counter(
            "agentmill_gate_plans", "Plans by what became of them at the complexity gate.", tag_keys=("gate",)
        )
        self._conversations = Conversations(settings, team, self._executor, self._ask, self._ping, self._counted)

    async def __serve_build_asgi_app__(self) -> Any:
        return http_app(self._conversations)

    def _counted(self, mark: GateMark) -> None:
        if mark != "none":
            self._plans.inc(1, {"gate": mark})

    async def _ask(self, request: ChatRequest) -> ChatReply:
        return await self._asking[request.agent].complete(request)

    async def _ping(self) -> dict[str, str]:
        """`ok`, or what is wrong, of each agent (and of the engine behind those that ask it)."""
        parts = {**self._asking, "executor": self._executor}
        states = await asyncio.gather(*(_state(part) for part in parts.values()))
        return dict(zip(parts, states, strict=True))


async def _state(part: Any) -> str:
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            await part.ping()
    except (RayError, RayServeException, ModelError, WorldUnavailable) as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        return f"failed: {type(cause).__name__}"
    except TimeoutError:
        return f"failed: no answer within {PING_TIMEOUT_S:g} s"
    return "ok"


def _agent(name: str, args: AppArguments, engine: serve.Application | None) -> serve.Application:
    settings = args.serve
    options = _options(settings.agents)
    server = serve.deployment(AgentServer, name=name.capitalize(), num_replicas=settings.agents.replicas, **options)
    return server.bind(name, args.domain, args.system, settings.model, settings.engine, settings.agents, engine)


def _options(settings: AgentSettings | GatewaySettings) -> dict[str, Any]:
    """Serve's options that a deployment's own settings give."""
    return {
        "ray_actor_options": {"num_cpus": settings.num_cpus},
        "max_ongoing_requests": settings.max_ongoing_requests,
        "max_queued_requests": settings.max_queued_requests,
        "graceful_shutdown_timeout_s": GRACE_S,
    }


def _decoded(key: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.startswith("{"):
        try:
            return json.loads(value)
        except ValueError as error:
            raise ConfigError(f"{key}={value[:80]!r} is not JSON ({error}); write for example {key}={{}}") from error
    return {"true": True, "false": False}.get(value, value)
