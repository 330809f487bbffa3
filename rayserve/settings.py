"""What a served system is made of: the model behind the agents, the engine's knobs, the gateway's limits.

Imports neither Ray nor vLLM, so that a configuration can be checked anywhere. Invariant: settings that pass here
build an application; what depends on the machine (a busy port, a missing model folder) is checked by `serve.start`.
"""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from agentmill.agents.settings import TeamSettings
from agentmill.config import Strict
from agentmill.models.chat import AgentName

LOOPBACK = "127.0.0.1"
SERVED_AGENTS: tuple[AgentName, ...] = ("understander", "planner", "evaluator", "executor", "explainer")

# Read by Ray Serve when its processes start, so they must stand in the environment before Ray is initialised:
# the router and the agents' code run on one event loop, and nothing but failures is written to the terminal.
# Direct ingress (part of "throughput optimised") stays off: it would open HTTP ports beside the gateway's.
ENVIRONMENT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",  # of the command's own process; the engine's warnings are in its log
}


class ServedModel(Strict):
    """Who answers for the agents.

    `engine`: the model folder that `start` is given, on the shared vLLM engine. `expert`: the domain's policy in
    code, no weights needed. `endpoint`: any OpenAI-compatible server at `url`, asked for the model `name`; the key,
    if it needs one, is read from the environment variable `api_key_env`; `grammars=false` keeps a Planner's grammar
    from a server that refuses fields which it does not know (vLLM's reads it).
    """

    kind: Literal["engine", "expert", "endpoint"] = "engine"
    mistake_rate: float = Field(0.0, ge=0.0, le=1.0)
    url: str = ""
    name: str = ""
    api_key_env: str = ""
    timeout_s: float = Field(60.0, gt=0)
    grammars: bool = True

    @model_validator(mode="after")
    def _endpoint_is_named(self) -> Self:
        if self.kind == "endpoint" and not (self.url and self.name):
            raise ValueError("kind=endpoint needs the server's `url` and the model's `name` to ask for")
        return self


class Speculative(Strict):
    """Speculative decoding: who drafts, and how many tokens at a time.

    `ngram` repeats what followed the same words before and needs no weights; `eagle3` is a drafter in the folder
    `model` that was trained for the served model (speculators' format). `tokens_by_batch` drafts fewer where many are
    in flight: {4: 5, 16: 2} drafts five with up to four requests in a step, two with up to sixteen, none beyond.
    """

    method: Literal["ngram", "eagle3"]
    tokens: int = Field(3, ge=1, le=16)
    tokens_by_batch: dict[int, int] = {}
    model: str = ""

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        wrong = [batch for batch, tokens in self.tokens_by_batch.items() if batch < 1 or not 0 <= tokens <= self.tokens]
        if wrong:
            raise ValueError(
                f"tokens_by_batch={self.tokens_by_batch}: requests in a step are 1 or more, and 0 to "
                f"tokens={self.tokens} are drafted for them; change the entry of {wrong[0]}, or raise tokens"
            )
        return self

    @model_validator(mode="after")
    def _drafter_is_named(self) -> Self:
        if self.method == "eagle3" and not self.model:
            raise ValueError("method=eagle3 drafts with weights of its own; give the drafter's folder as `model`")
        if self.method == "ngram" and self.model:
            raise ValueError(f"model={self.model} is for method=eagle3; ngram has no weights, leave it out")
        return self


class EngineSettings(Strict):
    """The shared vLLM engine. `accelerator=auto` takes a GPU where Ray's cluster has one, else the CPU.

    `enforce_eager` starts in a third of the time; switch it off for throughput on a GPU. `block_size` is small
    because agents' prompts are short and only whole blocks are found again in the prefix cache. `cpu_threads` is the
    number of threads on the CPU: by default one less than there are cores, wherever the system has room; 0 lets vLLM
    bind its threads to cores of its own choice, which is best on a machine that does nothing else, and starves where
    another program is busy on those cores. With `cpu_preload` Intel's OpenMP and tcmalloc stand before other
    libraries, where this machine has them.
    Requests beyond `max_ongoing_requests` in a replica wait, beyond `max_queued_requests` at a caller are refused.
    With `max_replicas` there are `replicas` at least, and up to so many while each has more than
    `target_ongoing_requests` in work.
    In `sample_ranges` of its steps, a share, the engine counts which inputs of the linear layers lie outside the ranges
    that a quantised model was calibrated for (ranges.json of its folder); a replica whose share of such inputs is above
    `max_clip_rate` says so in its log, once a minute at most.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    accelerator_type: str | None = None
    tensor_parallel: int = Field(1, ge=1)
    replicas: int = Field(1, ge=1)
    max_replicas: int | None = Field(None, ge=1)
    enforce_eager: bool = True
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    max_model_len: int = Field(2048, ge=128)
    max_num_seqs: int = Field(32, ge=1)
    block_size: int = Field(32, ge=16, multiple_of=16)
    prefix_caching: bool = True
    cpu_kv_cache_gib: int = Field(1, ge=1)
    cpu_threads: int | None = Field(None, ge=0)
    cpu_preload: bool = True
    gpu_memory_utilization: float = Field(0.85, gt=0.0, le=1.0)
    stream_interval_ms: float = Field(5.0, ge=0.0)
    speculative: Speculative | None = None
    max_ongoing_requests: int = Field(64, ge=1)
    target_ongoing_requests: int = Field(32, ge=1)
    max_queued_requests: int = Field(256, ge=1)
    timeout_s: float = Field(60.0, gt=0)
    sample_ranges: float = Field(0.0, ge=0.0, le=1.0)
    max_clip_rate: float = Field(1e-3, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _sampled_steps_run_hooks(self) -> Self:
        if self.sample_ranges and not self.enforce_eager:
            raise ValueError(
                f"sample_ranges={self.sample_ranges:g} looks at the layers from hooks, which a compiled graph "
                "leaves out; set enforce_eager=true, or sample_ranges=0"
            )
        return self

    @model_validator(mode="after")
    def _target_is_reachable(self) -> Self:
        if self.target_ongoing_requests > self.max_ongoing_requests:
            raise ValueError(
                f"target_ongoing_requests={self.target_ongoing_requests} is above max_ongoing_requests="
                f"{self.max_ongoing_requests}, so that it is never reached; lower the target or raise the maximum"
            )
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas={self.max_replicas} is below replicas={self.replicas}, which are there from the start; "
                "raise it or leave it out"
            )
        return self


class ModelEngine(EngineSettings):
    """A vLLM engine that a run starts for its own models: `model` is a folder, or a name that vLLM finds.

    `vllm` holds further arguments of vLLM's engine by their own names, for example `quantization: fp8`.
    """

    model: str = Field(min_length=1)
    vllm: dict[str, Any] = {}

    @model_validator(mode="after")
    def _sampling_is_left_alone(self) -> Self:
        taken = [name for name in ("enforce_eager", "worker_extension_cls") if name in self.vllm]
        if self.sample_ranges and taken:
            raise ValueError(
                f"vllm.{taken[0]}={self.vllm[taken[0]]} would replace what sample_ranges={self.sample_ranges:g} "
                "needs of the engine; leave it out, or set sample_ranges=0"
            )
        return self

    @property
    def answering(self) -> dict[str, Any]:
        """What of the settings decides the answers; how many replicas there are and where they run does not."""
        names = {"model", "dtype", "max_model_len", "tensor_parallel", "speculative", "vllm"}
        return self.model_dump(mode="json", include=names)


class AgentSettings(Strict):
    """Every agent's deployment. Agents wait for the model most of the time: a small share of a CPU is enough."""

    num_cpus: float = Field(0.1, gt=0)
    replicas: int = Field(1, ge=1)
    max_ongoing_requests: int = Field(128, ge=1)
    max_queued_requests: int = Field(512, ge=1)
    retries: int = Field(2, ge=0)  # of a model call whose replica died
    retry_delay_s: float = Field(0.5, gt=0)


class SessionSettings(Strict):
    """How long and how many conversations are kept. Where there are too many, the one idle longest is closed."""

    ttl_s: float = Field(1800.0, gt=0)
    max_count: int = Field(1000, ge=1)


class GatewaySettings(Strict):
    """The HTTP side: the name of the served system (the client's `model`), and what it accepts.

    With `trace` a client may ask for the agents' prompts and outputs beside a reply; turn it off where clients are
    customers, who have no business with prompts and rules.
    """

    model_name: str = Field("agentmill", pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")
    num_cpus: float = Field(0.2, gt=0)
    max_ongoing_requests: int = Field(128, ge=1)
    max_queued_requests: int = Field(512, ge=1)
    max_body_bytes: int = Field(1_000_000, ge=1_000)
    max_messages: int = Field(400, ge=1)
    max_input_chars: int = Field(2_000, ge=1)
    turn_timeout_s: float = Field(120.0, gt=0)
    trace: bool = True


class ServeSettings(Strict):
    """One served system. It listens on the loopback interface only; `port=0` takes a free port.

    `sessions_api` opens the routes that name a world's seed, show a world and ask one agent: for evaluation only.
    """

    port: int = Field(8000, ge=0, le=65535)
    sessions_api: bool = False
    start_timeout_s: float = Field(300.0, gt=0)
    model: ServedModel = ServedModel()
    engine: EngineSettings = EngineSettings()
    agents: AgentSettings = AgentSettings()
    sessions: SessionSettings = SessionSettings()
    gateway: GatewaySettings = GatewaySettings()


class AppArguments(Strict):
    """What the application is a function of. `model_dir` is the model folder, for kind=engine."""

    serve: ServeSettings = ServeSettings()
    system: TeamSettings = TeamSettings()
    domain: str = "automotive"
    model_dir: str = ""
    on_gpu: bool = False
