"""The small base: its material is honest practice, its tokenizer copies, its weights ship and load."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from random import Random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from agentmill.agents.frames import parse_frame
from agentmill.agents.state import Understanding
from agentmill.plans.parse import Plan
from raytrain.base import WEIGHTS, duties
from raytrain.base.errands import errands, fields_of
from raytrain.base.fields import FIELDS
from raytrain.base.grow import deepen
from raytrain.base.material import LENGTH, LONG, copying, packed, practice
from raytrain.base.speech import draw, slots_of
from raytrain.base.tasks import plan, sample, understand, write_plan
from raytrain.base.tokenizer import render, train_tokenizer
from raytrain.base.train import Schedule, loss_of
from raytrain.base.venues import venues

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    rng = Random(3)
    return train_tokenizer(("".join(render(*sample(rng))) for _ in range(3000)), 900)


def test_the_same_seed_gives_the_same_practice() -> None:
    assert [sample(Random(5)) for _ in range(3)] == [sample(Random(5)) for _ in range(3)]


def test_practice_knows_no_domain_of_the_project() -> None:
    rng = Random(1)
    text = " ".join(" ".join(sample(rng)) for _ in range(3000)).lower()
    for word in ("northgate", "toyota", "test drive", "test_drive", "vehicle", "dealer"):
        assert word not in text


def test_every_entity_heard_is_in_the_slots_of_its_intent() -> None:
    rng = Random(2)
    for _ in range(500):
        venue = rng.choice(venues())
        heard = json.loads(understand(rng, venue)[2])
        assert set(heard["entities"]) <= set(slots_of(venue)[heard["intent"]].all)


def test_open_values_of_an_understanding_stand_in_the_utterance() -> None:
    rng = Random(4)
    for _ in range(500):
        venue = rng.choice(venues())
        _, user, completion = understand(rng, venue)
        utterance = parse_frame(user)["customer"]
        entities = json.loads(completion)["entities"]
        for slot in (venue.person, venue.card, venue.code, venue.reference):
            if slot in entities:
                assert entities[slot] in utterance


def test_a_plan_uses_the_values_of_its_frame_and_is_python() -> None:
    rng = Random(6)
    for _ in range(300):
        venue = rng.choice(venues())
        _, user, completion = plan(rng, venue)
        compile(completion, "plan", "exec")
        values = [v for k, v in parse_frame(user).items() if k not in ("intent", "confirmed", "violation", "plan")]
        assert any(value in completion for value in values)


def test_a_booking_plan_checks_before_it_changes() -> None:
    rng, venue = Random(8), venues()[0]
    intent = venue.book[0]
    entities = {slot: draw(rng, venue, slot) for slot in slots_of(venue)[intent].required}
    confirmed = write_plan(venue, intent, entities, confirmed=True)
    assert confirmed.index(venue.check[0]) < confirmed.index("if ") < confirmed.index(f"{venue.book[1]}(")
    assert venue.book[1] + "(" not in write_plan(venue, intent, entities, confirmed=False).replace(venue.check[0], "")


def test_a_value_is_the_same_tokens_in_prose_and_in_json(tokenizer: PreTrainedTokenizerFast) -> None:
    for value in ("Ana Brankovic", "N4821", "RAV4", "27450"):
        wanted = tokenizer(value)["input_ids"]
        for text in (f"customer: my name is {value}.", f'{{"name":"{value}"}}', f"({value}) for"):
            ids = tokenizer(text)["input_ids"]
            assert any(ids[i : i + len(wanted)] == wanted for i in range(len(ids))), text


def test_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    text = '<|user|>intent: none\ncustomer: Zoë Ångström  pays €5\n    x = f(a="b")<|end|>'
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_chat_template_writes_what_the_base_was_trained_on(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    prompt, completion = render("s", "u", "c")
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == prompt
    full = [*messages, {"role": "assistant", "content": "c"}]
    assert tokenizer.apply_chat_template(full, tokenize=False) == prompt + completion


def test_copying_repeats_a_span_and_counts_all_but_the_first() -> None:
    for ids, weights in islice(copying(900, seed=1), 20):
        span = weights.count(0.0)
        assert ids[:-span] == ids[span:] and weights == [0.0] * span + [1.0] * (len(ids) - span)


def test_packed_rows_lose_no_example_but_those_too_long(tokenizer: PreTrainedTokenizerFast) -> None:
    made = list(islice(practice(tokenizer, seed=1), 400))
    made[5] = ([7] * (LONG + 1), [1.0] * (LONG + 1))
    batches = list(islice(packed(iter(made)), 5))
    assert {batch.ids.shape[1] for batch in batches} <= {LENGTH, LONG}
    rows = [
        ids[owned].tolist() for batch in batches for ids, owned in zip(batch.ids, _owned(batch.positions), strict=True)
    ]
    packed_text = "".join(tokenizer.decode(row) for row in rows)
    fit = [tokenizer.decode(ids) for ids, _ in made[: 16 * LENGTH // LONG] if len(ids) <= LENGTH]
    assert all(text in packed_text for text in fit) and [7] * (LONG + 1) not in rows
    assert sum(batch.tokens for batch in batches) > 0.85 * sum(batch.ids.numel() for batch in batches)


def _owned(positions: torch.Tensor) -> torch.Tensor:
    """True from the first token of a row to its last: padding has position 0 behind position 0."""
    ends = positions.shape[1] - positions.flip(1).ne(0).int().argmax(1)
    return torch.arange(positions.shape[1])[None] < ends[:, None]


def test_a_packed_example_has_the_loss_that_it_has_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_config(len(tokenizer)))
    model.set_attn_implementation("eager")
    ids, weights = next(example for example in practice(tokenizer, seed=2) if len(example[0]) < LENGTH // 2)
    others = islice(practice(tokenizer, seed=3), 400)
    crowd = next(
        packed(iter([([*i], [0.0] * len(w)) for i, w in islice(others, 3)] + [(ids, weights)] + list(filler())))
    )
    alone = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].float()
    each = torch.nn.functional.cross_entropy(alone, torch.tensor(ids[1:]), reduction="none")
    expected = (each * torch.tensor(weights[1:])).sum() / sum(weights[1:])
    assert loss_of(model, crowd).item() == pytest.approx(expected.item(), rel=0.01)  # bf16 within


def filler() -> Iterator[tuple[list[int], list[float]]]:
    """Examples without weight, enough to fill a batch."""
    return (([9] * (LENGTH // 2 + 1), [0.0] * (LENGTH // 2 + 1)) for _ in range(40))


def tiny_config(vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2
    )


def test_new_blocks_change_nothing_and_learn(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_config(len(tokenizer))).eval()
    ids = torch.arange(5, 40)[None]
    before = model(input_ids=ids).logits
    deepen(model, 4)
    after = model(input_ids=ids)
    assert torch.equal(after.logits, before) and model.config.num_hidden_layers == 4
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2, 3]
    after.logits.sum().backward()
    assert all(part.weight.grad.abs().max() > 0 for part in (model.model.layers[3].mlp.down_proj, model.lm_head))
    generated = model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
    model.config.use_cache = False
    assert torch.equal(
        generated, model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0, use_cache=False)
    )
    with pytest.raises(ValueError, match="only grows"):
        deepen(model, 2)


def test_every_agent_of_the_pipeline_can_read_the_practice_of_errands() -> None:
    rng = Random(12)
    known = {errand.intent: errand for errand in errands()}
    seen = set()
    for _ in range(1500):
        _, user, completion = duties.understand(rng, venues()[0])
        frame, heard = parse_frame(user), Understanding.model_validate_json(completion)
        seen |= set(frame)
        asked = [known[name] for name in heard.requests]
        assert set(heard.entities) <= {*fields_of(asked), "phone", "member", "mark", "town"}
        said = frame["customer"].lower() + json.dumps(json.loads(frame.get("memory", "{}"))).lower()
        open_kinds = ("tag", "ticket", "person", "phone", "plate", "serial", "licence", "brand", "place")
        for name, value in heard.entities.items():
            assert FIELDS[name].kind not in open_kinds or value.lower() in said, (user, completion)
    assert {"also", "memory", "changes", "proposed"} <= seen


def test_plans_of_errands_are_in_the_plan_language_and_follow_the_notices() -> None:
    rng = Random(13)
    for _ in range(800):
        _, user, completion = duties.plan(rng, venues()[0])
        called = {call.tool for call in Plan.parse(completion).calls}
        for notice in json.loads(parse_frame(user).get("changes", "[]")):
            if notice.startswith("The tool "):
                words = notice.split()
                assert words[2] not in called, (user, completion)
        assert not _changing() & called or parse_frame(user).get("confirmed") == "yes"


def _changing() -> set[str]:
    return {step.tool for errand in errands() for step in errand.steps if step.waits}


def test_a_reply_of_an_errand_says_only_what_was_given() -> None:
    rng = Random(14)
    for _ in range(800):
        _, user, completion = duties.explain(rng, venues()[0])
        for number in re.findall(r"\d{3,}", completion):
            assert number in user, (user, completion)


def test_the_learning_rate_warms_up_and_ends_low() -> None:
    schedule = Schedule(steps=1000, copy_steps=100, peak=1.0, seed=0)
    rates = [schedule.learning_rate(step) for step in range(1000)]
    assert rates[0] < 0.01 and max(rates) == rates[500] == 1.0 and rates[-1] == pytest.approx(0.05)


def test_the_shipped_base_fits_and_says_how_it_was_made() -> None:
    weights = WEIGHTS / "model.safetensors"
    record = json.loads((WEIGHTS / "base.json").read_text())
    assert weights.stat().st_size <= 16 * MIB
    assert (
        record["command"].startswith("agentmill base") and record["seconds"] > 0 and record["license"] == "Apache-2.0"
    )


def test_the_shipped_base_loads_and_knows_its_end_of_turn() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS)
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|end|>")
