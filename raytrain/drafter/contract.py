"""The contract with the serving engine: before a long training, vLLM loads the untrained drafter and drafts with it.

What is looked at is that it loads beside the student, that drafts are made, and that the greedy answers have tokens. It
runs in a Ray task of its own, so that the engine's memory is gone before training begins.
"""

from typing import Any

import numpy as np

from agentmill.config import UserError
from agentmill.log import say
from raytrain.data import TokenRows
from raytrain.job import DRAFTER, Job
from raytrain.settings import DrafterSettings

PROMPTS = 4
TOKENS = 16


class ContractBroken(UserError):
    """The serving engine does not take the drafter. The message has its own words."""


def check_contract(job: Job, rows: TokenRows) -> tuple[int, int] | None:
    """Have the engine answer a few of these rows' prompts with the untrained drafter, once for a work folder.

    Returns drafts and tokens; None where that was done before.

    Raises:
        ContractBroken: when it does not load, or drafts nothing.
    """
    import ray
    from ray.exceptions import RayError

    assert isinstance(job.settings, DrafterSettings)
    marker = job.work / "contract.txt"
    if marker.is_file():
        return None
    picked = np.linspace(0, len(rows) - 1, min(PROMPTS, len(rows)), dtype=int)
    prompts = [rows.row(int(index)) for index in picked]
    asked = {
        "student": str(job.start),
        "drafter": str(job.untrained),
        "draft_tokens": job.settings.draft_tokens,
        "prompts": [tokens[:start].tolist() for tokens, start in prompts],
        "tokens": TOKENS,
        "longest": int(rows.lengths.max()) + TOKENS,
        "tensor_parallel": job.settings.engine.tensor_parallel if job.settings.states == "engine" else 1,
    }
    try:
        drafts, tokens = ray.get(in_engine(asked, on_gpu=job.placement.device == "gpu"))
    except RayError as error:
        raise ContractBroken(
            f"vLLM does not load the drafter {job.untrained}: {last_line(error)}; Ray's logs have the whole error; "
            f"drafter.contract=false trains it nevertheless"
        ) from error
    if not drafts or not tokens:
        raise ContractBroken(
            f"vLLM made {drafts} drafts and {tokens} tokens with the drafter {job.untrained}; the engine that is "
            f"installed does not draft for this model; drafter.contract=false trains it nevertheless"
        )
    marker.write_text(f"{drafts} drafts, {tokens} tokens\n", encoding="utf-8")
    say(DRAFTER, f"the serving engine takes the untrained drafter: {drafts} drafts for {tokens} tokens")
    return drafts, tokens


def last_line(error: Exception) -> str:
    """What an error of Ray's, which quotes the whole traceback of the other process, comes to."""
    return [line.strip() for line in str(error).splitlines() if line.strip()][-1]


ENGINE_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def in_engine(asked: dict[str, Any], *, on_gpu: bool) -> Any:
    """A reference to (drafts, tokens) of a Ray task in which an engine answers.

    `asked`: the folders `student` and `drafter`, `draft_tokens`, `prompts` (token ids), `tokens` of an answer at most,
    the `longest` prompt with its answer, and over how many devices the student is cut (`tensor_parallel`).
    """
    import ray

    gpus = asked["tensor_parallel"] if on_gpu else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0, runtime_env={"env_vars": ENGINE_ENVIRONMENT})
    return task(_answer).remote(asked)


def _answer(asked: dict[str, Any]) -> tuple[int, int]:
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=asked["student"],
        speculative_config={
            "method": "eagle3",
            "model": asked["drafter"],
            "num_speculative_tokens": asked["draft_tokens"],
        },
        tensor_parallel_size=asked["tensor_parallel"],
        distributed_executor_backend=backend_of(asked["tensor_parallel"]),
        max_model_len=max(128, asked["longest"]),
        max_num_seqs=min(len(asked["prompts"]), 32),
        enforce_eager=True,
        disable_log_stats=False,
    )
    sampling = SamplingParams(temperature=0.0, max_tokens=asked["tokens"])
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in asked["prompts"]], sampling, use_tqdm=False)
    drafts = sum(int(m.value) for m in llm.get_metrics() if m.name == "vllm:spec_decode_num_drafts")
    return drafts, sum(len(output.outputs[0].token_ids) for output in outputs)


def backend_of(tensor_parallel: int) -> str:
    """vLLM's executor in an actor or a task of Ray's: the GPUs are this process's, and no placement of vLLM's own."""
    return "uni" if tensor_parallel == 1 else "mp"
