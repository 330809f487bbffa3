"""The one vLLM engine that all agents share, as a Ray Serve deployment made by ray.serve.llm.

`SharedEngine` answers ChatRequests of the project, so that the callers' processes need neither vLLM nor torch.
Invariant: a refusal by the engine comes back as a value (`EngineAnswer.error`), never as an empty reply; only the
death of a replica is an exception at the caller.
"""

import asyncio
import ctypes.util
import json
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.serve.llm import LLMConfig, LLMServer, build_llm_deployment

from agentmill.config import UserError
from agentmill.models.chat import ChatReply, ChatRequest, Message, Sampling
from rayserve.answers import EngineAnswer, EngineCounts, RangeDrift
from rayserve.drift import DriftWatch, check_watched, checked_ranges, gathered
from rayserve.settings import EngineSettings, ModelEngine, Speculative

MODEL_ID = "student"
# Of the four backends of vLLM 0.29, guidance is the one whose JSON is compact, as the agents write it, and whose texts
# with a `maxLength` are valid JSON (xgrammar 0.2.8 lets control characters through there). It takes GBNF too.
STRUCTURED = {"backend": "guidance", "disable_any_whitespace": True}
CPU_BLOCK = 32  # of vLLM's attention on the CPU (get_supported_kernel_block_sizes)
_MOST_SEQUENCES = 1 << 20
NGRAM = {"prompt_lookup_max": 4, "prompt_lookup_min": 2}


class LocalModel(CallbackBase):
    """Tells ray.serve.llm that there is nothing to download: the model is a folder, and looking costs a process.

    The task that looks for remote files imports all of vLLM first (a quarter of the start on two cores).
    Ray 2.60 documents the switch, `ctx.run_init_node`, and does not export this base class; use a public name when
    there is one.
    """

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


class SharedEngine(LLMServer):
    """The engine's deployment: LLMServer with the project's own request and reply types at its boundary.

    `sample_ranges` and `max_clip_rate` are those of EngineSettings.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it, as LLMServer's own
        self, llm_config: LLMConfig, *, sample_ranges: float = 0.0, max_clip_rate: float = 0.0
    ) -> None:
        self._sampled, self._bound = sample_ranges, max_clip_rate
        await super().__init__(llm_config)

    async def start(self) -> None:
        """Start the engine and have it say one word: what vLLM refuses only at the first prompt is found here.

        Raises:
            ModelError: when it refuses (an engine that dies raises vLLM's own error).
            UserError: when ranges are sampled and the model has none.
        """
        await super().start()
        hello = ChatRequest(
            agent="explainer", messages=(Message(role="user", content="hello"),), sampling=Sampling(max_tokens=1)
        )
        (await self.complete(hello)).unwrap()
        if self._sampled:
            await self._watch_ranges()

    async def _watch_ranges(self) -> None:
        """Begin to sample, and to warn of what is found."""
        ranges = checked_ranges(Path(self._llm_config.model_loading_config.model_source), self._sampled)
        check_watched(ranges, await self.collective_rpc("watch_ranges", args=(ranges, self._sampled)))
        self._warning = asyncio.create_task(DriftWatch(self._drift, self._bound).run())

    async def range_drift(self) -> RangeDrift | None:
        """What this replica's engine has sampled since it started; None where it does not sample."""
        return await self._drift() if self._sampled else None

    async def _drift(self) -> RangeDrift:
        return gathered(await self.collective_rpc("clipped_inputs"))

    async def complete(self, request: ChatRequest) -> EngineAnswer:
        """One whole answer."""
        from vllm.exceptions import GenerationError

        start = time.perf_counter()
        try:
            replies = await self.chat(_openai_request(request, stream=False))
            async for reply in replies:
                return _answer(reply, time.perf_counter() - start)
        except GenerationError as error:  # of this request alone: a grammar that does not compile, or lost its way
            return EngineAnswer(error=f"the engine broke the answer off: {error}", retryable=True)
        return EngineAnswer(error="the engine ended without an answer", retryable=True)

    async def counts(self) -> EngineCounts | None:
        """What this replica's engine has counted; None where agentmill is not installed in its environment, so that
        vLLM does not find the logger."""
        from importlib.metadata import entry_points

        if not entry_points(group="vllm.stat_logger_plugins", name="agentmill"):
            return None
        from rayserve.counting import Counting

        return Counting.counts

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | EngineAnswer]:
        """Pieces of text as the engine makes them, then the whole answer."""
        start = time.perf_counter()
        whole = _Whole()
        batches = await self.chat(_openai_request(request, stream=True))
        async for batch in batches:
            text = "".join(whole.take(event) for event in _events(batch))
            if text:
                yield text
        yield whole.answer(time.perf_counter() - start)


def build(settings: EngineSettings, model_dir: str, *, on_gpu: bool) -> serve.Application:
    """The engine's application for the model folder; a function of its arguments and of the libraries that are there.

    Raises:
        UserError: when a setting does not fit the hardware that it asks for.
    """
    if not on_gpu and settings.tensor_parallel > 1:
        raise UserError(
            f"serve.engine.tensor_parallel={settings.tensor_parallel} needs as many GPUs; this engine runs on the CPU, "
            "set it to 1 or choose serve.engine.accelerator=gpu on a machine with GPUs"
        )
    if not on_gpu and settings.block_size % CPU_BLOCK:
        raise UserError(
            f"serve.engine.block_size={settings.block_size} is no multiple of {CPU_BLOCK}, as vLLM's attention on the "
            f"CPU needs it; use {-(-settings.block_size // CPU_BLOCK) * CPU_BLOCK}"
        )
    config = LLMConfig(
        model_loading_config={"model_id": MODEL_ID, "model_source": model_dir},
        accelerator_type=settings.accelerator_type if on_gpu else None,
        accelerator_config={"kind": "gpu" if on_gpu else "cpu"},
        engine_kwargs=_engine_arguments(settings, on_gpu),
        deployment_config=_deployment(settings),
        runtime_env={"env_vars": _environment(settings, on_gpu)},
        experimental_configs={"stream_batching_interval_ms": settings.stream_interval_ms},
        callback_config={"callback_class": LocalModel},
    )
    sampling = {"sample_ranges": settings.sample_ranges, "max_clip_rate": settings.max_clip_rate}
    return build_llm_deployment(config, deployment_cls=SharedEngine, bind_kwargs=sampling)


def _engine_arguments(settings: EngineSettings, on_gpu: bool) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "max_num_batched_tokens": max(settings.max_model_len, 2048),
        "block_size": settings.block_size,
        "dtype": settings.dtype,
        "enforce_eager": settings.enforce_eager,
        "enable_prefix_caching": settings.prefix_caching,
        "generation_config": "vllm",  # sampling is the agents' business, not the model folder's
        "structured_outputs_config": STRUCTURED,
    }
    if settings.speculative is not None:
        arguments["speculative_config"] = _drafting(settings.speculative)
    extension = _extension(settings, on_gpu)
    if extension:
        arguments["worker_extension_cls"] = extension
    if on_gpu:
        arguments["tensor_parallel_size"] = settings.tensor_parallel
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization
    return arguments | (settings.vllm if isinstance(settings, ModelEngine) else {})


def _extension(settings: EngineSettings, on_gpu: bool) -> str:
    """The class that vLLM's worker inherits from beside its own; it takes one."""
    repaired, sampled = settings.speculative is not None and not on_gpu, settings.sample_ranges > 0
    if repaired:
        return "rayserve.drafting.RepairAndRanges" if sampled else "rayserve.drafting.Repair"
    return "rayserve.ranges.Ranges" if sampled else ""


def _drafting(settings: Speculative) -> dict[str, Any]:
    drafting: dict[str, Any] = {"method": settings.method, "num_speculative_tokens": settings.tokens}
    if settings.tokens_by_batch:
        drafting["num_speculative_tokens_per_batch_size"] = _by_batch(settings.tokens_by_batch)
    return drafting | ({"model": settings.model} if settings.model else NGRAM)


def _by_batch(lengths: dict[int, int]) -> list[tuple[int, int, int]]:
    """vLLM's own form: (from, to, tokens) without gaps; beyond the last nothing is drafted."""
    ends = sorted(lengths)
    starts = [1, *(end + 1 for end in ends)]
    found = [(start, end, lengths[end]) for start, end in zip(starts, ends, strict=False)]
    return [*found, (starts[-1], max(starts[-1], _MOST_SEQUENCES), 0)]


def _deployment(settings: EngineSettings) -> dict[str, Any]:
    """Serve's options. Left alone, ray.serve.llm never pushes back: its limits stand at a thousand million."""
    options: dict[str, Any] = {
        "max_ongoing_requests": settings.max_ongoing_requests,
        "max_queued_requests": settings.max_queued_requests,
        "graceful_shutdown_timeout_s": 5,
        "max_constructor_retry_count": 1,  # a folder that does not load will not load the next time
    }
    options["autoscaling_config"] = {
        "min_replicas": settings.replicas,
        "initial_replicas": settings.replicas,
        "max_replicas": settings.max_replicas or settings.replicas,
        "target_ongoing_requests": settings.target_ongoing_requests,
    }
    return options


def _environment(settings: EngineSettings, on_gpu: bool) -> dict[str, str]:
    quiet = {"VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if on_gpu:
        return quiet
    environment = {**quiet, "VLLM_CPU_KVCACHE_SPACE": str(settings.cpu_kv_cache_gib)}
    preloaded = fast_libraries() if settings.cpu_preload else ()
    if preloaded:
        own = os.environ.get("LD_PRELOAD")
        environment["LD_PRELOAD"] = ":".join([*preloaded, own] if own else preloaded)
    if settings.cpu_threads:
        environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(settings.cpu_threads)}
    return environment


def fast_libraries() -> tuple[str, ...]:
    """The libraries of this machine that make vLLM faster on a CPU when they stand before others: Intel's OpenMP, which
    comes with vLLM's own package, and tcmalloc, which a system package brings."""
    openmp = Path(sys.prefix, "lib", "libiomp5.so")
    found = [str(openmp)] if openmp.is_file() else []
    names = (ctypes.util.find_library(name) for name in ("tcmalloc_minimal", "tcmalloc"))
    return (*found, *[name for name in names if name][:1])


def _openai_request(request: ChatRequest, *, stream: bool) -> Any:
    """The request in vLLM's form. It gets an id of its own: by default all calls of one turn would share Serve's."""
    from ray.serve.llm.openai_api_models import ChatCompletionRequest

    body: dict[str, Any] = {
        "model": MODEL_ID,
        "messages": [message.model_dump() for message in request.messages],
        "temperature": request.sampling.temperature,
        "max_completion_tokens": request.sampling.max_tokens,
        "seed": request.sampling.seed,
        "request_id": f"{request.agent}-{uuid.uuid4().hex}",
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    if request.response_schema is not None:
        schema = {"name": request.agent, "schema": request.response_schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if request.response_grammar is not None:
        body["structured_outputs"] = {"grammar": _lark(request.response_grammar)}
    return ChatCompletionRequest(**body)


@lru_cache(maxsize=256)
def _lark(grammar: str) -> str:
    """The grammar in guidance's own language: vLLM translates every request's twice, in 12 ms of Python each time."""
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return str(any_to_lark(grammar))
    except Exception:  # noqa: BLE001 - nothing narrower is raised; the engine refuses it and says why
        return grammar


def _answer(reply: Any, seconds: float) -> EngineAnswer:
    """A ChatCompletionResponse or vLLM's ErrorResponse (which comes as a value) as the project's own."""
    problem = getattr(reply, "error", None)
    if problem is not None:
        return _refusal(problem.message, problem.code)
    choice = reply.choices[0]
    return EngineAnswer(
        reply=ChatReply(
            text=choice.message.content or "",
            model=MODEL_ID,
            prompt_tokens=reply.usage.prompt_tokens,
            completion_tokens=reply.usage.completion_tokens or 0,
            finish_reason="length" if choice.finish_reason == "length" else "stop",
            latency_s=seconds,
        )
    )


def _refusal(message: str, code: Any) -> EngineAnswer:
    return EngineAnswer(error=message, retryable=not (isinstance(code, int) and 400 <= code < 500))


def _events(batch: Any) -> list[dict[str, Any]]:
    """The JSON events of one batch: a list of `data: {...}` strings, or an error object."""
    events = []
    for item in batch if isinstance(batch, list) else [batch]:
        if not isinstance(item, str):
            events.append({"error": item.error.model_dump()})
            continue
        for line in item.splitlines():
            data = line.removeprefix("data: ").strip()
            if data and data != "[DONE]":
                events.append(json.loads(data))
    return events


class _Whole:
    """Gathers a stream's events into the answer that they make up."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._usage = {"prompt_tokens": 0, "completion_tokens": 0}
        self._finish = ""
        self._error: dict[str, Any] | None = None

    def take(self, event: dict[str, Any]) -> str:
        """Note one event; returns the text that it adds."""
        if event.get("error"):
            self._error = event["error"]
            return ""
        if event.get("usage"):
            self._usage = {key: event["usage"].get(key) or 0 for key in self._usage}
        if not event.get("choices"):
            return ""
        choice = event["choices"][0]
        self._finish = choice.get("finish_reason") or self._finish
        piece: str = choice["delta"].get("content") or ""
        self._text.append(piece)
        return piece

    def answer(self, seconds: float) -> EngineAnswer:
        if self._error is not None:
            return _refusal(str(self._error.get("message", "the engine refused")), self._error.get("code"))
        reason = "length" if self._finish == "length" else "stop"
        text = "".join(self._text)
        return EngineAnswer(
            reply=ChatReply(text=text, model=MODEL_ID, finish_reason=reason, latency_s=seconds, **self._usage)
        )
