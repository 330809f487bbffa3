"""How a drafter is trained in tests, and an engine that answers with it."""

from typing import Any

from raytrain.settings import DrafterSettings, WorkerSettings

STEPS = 80
SETTINGS = DrafterSettings(
    worker=WorkerSettings(workers=2, threads=1, device="cpu"),
    max_steps=STEPS,
    check_every_steps=30,
    source="synthetic",
)
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "OMP_NUM_THREADS": "1",
}


def ask(model: str, drafter: str | None, prompts: list[Any]) -> Any:
    """A reference to (answers, mean generated length) of a Ray task in which an engine answers these prompts greedily,
    with drafts where a drafter is given."""
    import ray

    task = ray.remote(num_cpus=1, max_retries=0, runtime_env={"env_vars": ENVIRONMENT})(_answers)
    return task.remote(model, drafter, prompts)


def _answers(model: str, drafter: str | None, prompts: list[Any]) -> tuple[list[str], float]:
    from vllm import LLM, SamplingParams

    drafting = {"method": "eagle3", "model": drafter, "num_speculative_tokens": SETTINGS.draft_tokens}
    options = {"enforce_eager": True, "disable_log_stats": False, "max_model_len": 512, "max_num_seqs": 32}
    llm = LLM(model=model, **options, **({"speculative_config": drafting} if drafter else {}))
    outputs = llm.chat(prompts, SamplingParams(temperature=0.0, max_tokens=96), use_tqdm=False)
    counts = {metric.name: getattr(metric, "value", 0) for metric in llm.get_metrics()}
    drafts, accepted = (counts.get(f"vllm:spec_decode_num_{what}", 0) for what in ("drafts", "accepted_tokens"))
    return [output.outputs[0].text for output in outputs], 1 + accepted / max(1, drafts)
