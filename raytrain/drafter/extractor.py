"""Engines that compute the student's states for the workers of a drafter's training (`drafter.states: engine`).

Each is a vLLM engine in a Ray actor of its own, on GPUs where Ray has some, else on the CPU: it is given documents,
only reads them (one token is generated and thrown away), and returns the states that raytrain.drafter.watch saw. The
prefix cache is off: of a remembered prefix no states are computed.

The driver starts them before the workers and ends them after; the workers find them by the name of the work folder.
States are a function of the documents, so that whoever dies, what it was asked for is asked again: Ray starts a dead
actor anew and repeats its calls, `worker.max_failures` times.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from agentmill.errors import UserError
from agentmill.log import say
from raytrain.drafter.contract import ENGINE_ENVIRONMENT, backend_of, last_line
from raytrain.job import DRAFTER, Job
from raytrain.settings import DrafterSettings

EXTENSION = "raytrain.drafter.watch.StateWatch"
DOCUMENTS_AT_ONCE = 64


class ExtractorError(UserError):
    """No engine for the student's states. The message names the field, the reason and the remedy."""


class Extractor:
    """The actor. `asked` are arguments of vLLM's LLM; `layers` those whose states are wanted."""

    def __init__(self, asked: dict[str, Any], layers: Sequence[int]) -> None:
        from vllm import LLM, SamplingParams

        self._engine = LLM(**asked, worker_extension_cls=EXTENSION)
        self._type = "int16" if asked["dtype"] == "bfloat16" else "float32"
        self._sampling = SamplingParams(temperature=0.0, max_tokens=1, detokenize=False)
        self._engine.collective_rpc("watch_states", args=(list(layers),))

    def ready(self) -> None:
        """Returns when the engine is there."""

    def states(self, documents: list[list[int]]) -> Any:
        """The states of these documents (token ids), as `raytrain.drafter.watch.to_array` gives them."""
        import numpy as np
        from vllm.v1.engine.exceptions import EngineDeadError

        prompts = [{"prompt_token_ids": document} for document in documents]
        try:
            self._engine.generate(prompts, self._sampling, use_tqdm=False)
            states = self._engine.collective_rpc("take_states", args=(documents,))[0]
        except EngineDeadError:
            os._exit(1)  # without its processes it cannot go on; Ray starts the actor, and with it the engine, anew
        return np.frombuffer(states, self._type).reshape(sum(map(len, documents)), -1)


@contextmanager
def extractors(job: Job) -> Iterator[None]:
    """The engines that the job's settings ask for are there while the block runs. On the driver.

    Raises:
        ExtractorError: when Ray has too few GPUs or a too small object store, or an engine does not load the student.
    """
    import ray
    from ray.exceptions import RayError

    settings = job.settings
    assert isinstance(settings, DrafterSettings)
    if settings.states == "online":
        yield
        return
    drafter = json.loads((job.untrained / "config.json").read_text(encoding="utf-8"))
    layers = drafter["eagle_aux_hidden_state_layer_ids"]
    check_store(job, (len(layers) + 1) * drafter["transformer_layer_config"]["hidden_size"], ray.cluster_resources())
    gpus = gpus_of_engine(job, ray.cluster_resources())
    actors = [_start(job, number, gpus, layers) for number in range(settings.engine.replicas)]
    try:
        try:
            ray.get([actor.ready.remote() for actor in actors])
        except RayError as error:
            raise ExtractorError(
                f"drafter.states=engine and vLLM does not load the student {job.start}: {last_line(error)}; Ray's logs "
                f"have the whole error; drafter.states=online needs no engine"
            ) from error
        where = f"{gpus} GPUs each" if gpus else "the CPU"
        say(DRAFTER, f"the student is held by {len(actors)} engines on {where}, and streams its states")
        yield
    finally:
        for actor in actors:
            ray.kill(actor)


def engines(job: Job) -> list[Any]:
    """The handles of the job's engines, in a worker."""
    import ray

    settings = job.settings
    assert isinstance(settings, DrafterSettings)
    return [ray.get_actor(_name(job, number)) for number in range(settings.engine.replicas)]


def gpus_of_engine(job: Job, resources: Mapping[str, float]) -> int:
    """How many GPUs each engine takes of these (`ray.cluster_resources()`); 0 where Ray has none.

    Raises:
        ExtractorError: when there are some, and too few beside those of the workers.
    """
    settings = job.settings
    assert isinstance(settings, DrafterSettings)
    there, engine, workers = int(resources.get("GPU", 0)), settings.engine, settings.worker.workers
    if not there:
        return 0
    taken = workers if job.placement.device == "gpu" else 0
    if there < taken + engine.replicas * engine.tensor_parallel:
        raise ExtractorError(
            f"drafter.engine.replicas={engine.replicas} x tensor_parallel={engine.tensor_parallel} need as many GPUs "
            f"beside the {taken} of the workers, and Ray has {there}; lower drafter.worker.workers or these, start Ray "
            f"on more machines, or set drafter.states=online"
        )
    return engine.tensor_parallel


def check_store(job: Job, width: int, resources: Mapping[str, float]) -> None:
    """Look that Ray's object store holds what may be on its way, `width` numbers a token: what does not fit would go
    to disk.

    Raises:
        ExtractorError: when it does not.
    """
    settings = job.settings
    assert isinstance(settings, DrafterSettings)
    size, ahead = 2 if settings.worker.precision == "bf16" else 4, settings.engine.ahead
    need = settings.worker.workers * (ahead + 1) * settings.tokens_per_batch * width * size / 2**30
    have = resources.get("object_store_memory", 0.0) / 2**30
    if need > have:
        raise ExtractorError(
            f"drafter.engine.ahead={ahead} keeps the states of {ahead + 1} batches of {settings.tokens_per_batch} "
            f"tokens for each of {settings.worker.workers} workers, {need:.1f} GiB, and Ray's object store holds "
            f"{have:.1f} GiB: the rest would go to disk; lower ahead or drafter.tokens_per_batch, or start Ray with a "
            f"larger object store (--object-store-memory)"
        )


def _start(job: Job, number: int, gpus: int, layers: Sequence[int]) -> Any:
    import ray

    settings = job.settings
    assert isinstance(settings, DrafterSettings)
    together = settings.engine.tensor_parallel
    environment = {
        **ENGINE_ENVIRONMENT,
        "VLLM_CPU_KVCACHE_SPACE": str(settings.engine.kv_cache_gib),
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # for the token that is thrown away, after a row as long as the model's
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if together == 1 else "1",
        "OMP_NUM_THREADS": str(job.placement.threads),
    }
    asked = {
        "model": str(job.start),
        "dtype": {"bf16": "bfloat16", "fp32": "float32"}[settings.worker.precision],
        "tensor_parallel_size": together,
        "distributed_executor_backend": backend_of(together),
        "max_model_len": max(128, settings.max_length + 1),
        "max_num_batched_tokens": max(128, settings.tokens_per_batch),
        "max_num_seqs": DOCUMENTS_AT_ONCE,
        "enable_prefix_caching": False,
        "enforce_eager": True,
    }
    actor = ray.remote(Extractor).options(
        name=_name(job, number),
        num_cpus=1,
        num_gpus=gpus,
        max_restarts=settings.worker.max_failures,
        max_task_retries=settings.worker.max_failures,
        runtime_env={"env_vars": environment},
    )
    return actor.remote(asked, layers)


def _name(job: Job, number: int) -> str:
    return f"states-{job.work.name}-{number}"
