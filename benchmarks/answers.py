"""Greedy answers of a model folder to many prompts at once, by transformers in this process.

Prompts of like length share a batch, padded on the left; a batch ends when every row has its end of sequence.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentmill.agents.settings import MaxTokens
from agentmill.log import progress
from simulation.agent_tests import AgentTest, Answer

BATCH = 64


def answers(model: Path, tests: Sequence[AgentTest], label: str) -> list[Answer]:
    """What the model in this folder says to each test, in their order, with the agents' own limits of tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True)
    loaded = loaded.to(device).eval()
    prompts = [
        tokenizer.apply_chat_template(
            [message.model_dump() for message in test.messages], tokenize=False, add_generation_prompt=True
        )
        for test in tests
    ]
    limits = MaxTokens()
    order = sorted(range(len(tests)), key=lambda i: (tests[i].agent, len(prompts[i])))
    said: dict[int, str] = {}
    with progress(label, len(tests), "answers") as bar, torch.no_grad():
        for batch in _batches(order, [test.agent for test in tests]):
            inputs = tokenizer([prompts[i] for i in batch], padding=True, add_special_tokens=False, return_tensors="pt")
            made = loaded.generate(
                **inputs.to(device),
                do_sample=False,
                max_new_tokens=getattr(limits, tests[batch[0]].agent),
                pad_token_id=tokenizer.pad_token_id,
            )
            texts = tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            said.update(zip(batch, texts, strict=True))
            bar.advance(len(batch))
    return [Answer(test, said[i].strip()) for i, test in enumerate(tests)]


def _batches(order: Sequence[int], agents: Sequence[str]) -> list[list[int]]:
    """Batches of neighbours in `order`, each of one agent, since agents differ in how much they may say."""
    batches: list[list[int]] = []
    for index in order:
        last = batches[-1] if batches else None
        if last is None or len(last) == BATCH or agents[last[0]] != agents[index]:
            batches.append([index])
        else:
            last.append(index)
    return batches
