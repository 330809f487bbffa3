"""A vLLM engine as an OpenAI-compatible endpoint: one Serve application of two deployments, an ingress and the engine.

    POST {prefix}/v1/chat/completions -> EngineEndpoint -> SharedEngine (replicas with their own autoscaling)

It answers one whole completion, with a JSON schema or a grammar where the request has one, and does not stream: it is
for programs that call a model, such as a simulation. Invariants: what the engine refuses is 400 and not worth asking
again; too many requests are 429 and a replica that died is 503, both with Retry-After, so that clients slow down.
"""

import time
import uuid
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from agentmill.models.chat import ChatRequest, Message, Sampling
from rayserve.answers import EngineAnswer
from rayserve.engine import build
from rayserve.openai_api import ApiError, models, parse_body, unknown
from rayserve.settings import ModelEngine

_HEADROOM = 2.0  # requests that wait at the ingress for each that the engines take
_LATER = {"Retry-After": "1"}


class _JsonSchema(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    schema_: dict[str, Any] = Field(alias="schema")


class _ResponseFormat(BaseModel):
    type: Literal["text", "json_schema"]
    json_schema: _JsonSchema | None = None


class _Structure(BaseModel):
    """vLLM's own field; of its kinds, the one that the agents use."""

    model_config = ConfigDict(extra="forbid")

    grammar: str


class EngineBody(BaseModel):
    """The body of POST /v1/chat/completions, as far as it is understood; OpenAI's other fields have no effect."""

    model: str
    messages: list[Message] = Field(min_length=1)
    temperature: float = Field(1.0, ge=0.0, le=2.0)
    max_tokens: int = Field(256, ge=1)
    seed: int | None = None
    stream: Literal[False] = False
    response_format: _ResponseFormat | None = None
    structured_outputs: _Structure | None = None

    def request(self) -> ChatRequest:
        """The engine's request; which agent asks is not known here, and of no account."""
        shape = self.response_format.json_schema if self.response_format else None
        return ChatRequest(
            agent="explainer",
            messages=tuple(self.messages),
            sampling=Sampling(temperature=self.temperature, max_tokens=self.max_tokens, seed=self.seed),
            response_schema=shape.schema_ if shape else None,
            response_grammar=self.structured_outputs.grammar if self.structured_outputs else None,
        )


def engine_app(name: str, settings: ModelEngine, model_dir: str, *, on_gpu: bool) -> serve.Application:
    """The application that serves an engine under the model name `name`."""
    most = (settings.max_replicas or settings.replicas) * settings.max_ongoing_requests
    ingress = serve.deployment(
        EngineEndpoint,
        name="EngineEndpoint",
        num_replicas=1,
        max_ongoing_requests=int(most * _HEADROOM),
        ray_actor_options={"num_cpus": 0.1},
    )
    return ingress.bind(name, settings, build(settings, model_dir, on_gpu=on_gpu))


@serve.ingress()
class EngineEndpoint:
    """The HTTP side of one engine."""

    def __init__(self, name: str, settings: ModelEngine, engine: DeploymentHandle) -> None:
        self.name = name
        self._settings = settings
        self._engine = engine
        self._started = int(time.time())

    async def __serve_build_asgi_app__(self) -> Any:
        return http_app(self)

    async def ping(self) -> None:
        """Raise what is wrong with the engine, if anything is."""
        await self._engine.check_health.remote()

    def listed(self) -> dict[str, Any]:
        """The answer of GET /v1/models."""
        return models(self.name, self._started)

    async def complete(self, body: EngineBody) -> dict[str, Any]:
        """One completion.

        Raises:
            ApiError: when there is none.
        """
        if body.model != self.name:
            raise unknown("model", body.model, [self.name])
        try:
            answer: EngineAnswer = await self._engine.complete.remote(body.request())
        except BackPressureError as error:
            raise ApiError(429, "the engine's queue is full", code="overloaded", headers=_LATER) from error
        except RayActorError as error:
            raise ApiError(503, "the engine's replica died", code="engine_died", headers=_LATER) from error
        except RayTaskError as error:
            raise ApiError(500, f"the engine failed: {type(error.cause).__name__}", code="engine_failed") from error
        if answer.reply is None:
            status = 503 if answer.retryable else 400
            raise ApiError(status, answer.error, code="model_error", headers=_LATER if answer.retryable else None)
        return _completion(self.name, answer)


def http_app(endpoint: EngineEndpoint) -> FastAPI:
    """The endpoint's routes."""
    app = FastAPI(title="agentmill engine", docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return JSONResponse(error.body(), status_code=error.status, headers=error.headers)

    @app.get("/health")
    async def health() -> dict[str, str]:
        await endpoint.ping()
        return {"status": "ok"}

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return endpoint.listed()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> dict[str, Any]:
        return await endpoint.complete(parse_body(EngineBody, await request.body()))

    return app


def _completion(name: str, answer: EngineAnswer) -> dict[str, Any]:
    """The answer in OpenAI's form."""
    assert answer.reply is not None, "refusals were raised"
    said = answer.reply
    message = {"role": "assistant", "content": said.text, "refusal": None}
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": name,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": said.finish_reason}],
        "usage": {
            "prompt_tokens": said.prompt_tokens,
            "completion_tokens": said.completion_tokens,
            "total_tokens": said.prompt_tokens + said.completion_tokens,
        },
    }
