"""The small base: its material is honest practice, its tokenizer copies, its weights ship and load."""

import json
from itertools import islice
from random import Random

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from agentmill.agents.frames import parse_frame
from raytrain.base import WEIGHTS
from raytrain.base.material import LENGTHS, copying
from raytrain.base.speech import draw, slots_of
from raytrain.base.tasks import plan, sample, understand, write_plan
from raytrain.base.tokenizer import render, train_tokenizer
from raytrain.base.train import Schedule
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
    for batch in islice(copying(900, seed=1), 5):
        span = int((batch.weights[0] == 0).sum())
        assert torch.equal(batch.ids[:, :-span], batch.ids[:, span:]) and batch.weights[:, span:].all()
        assert batch.ids.shape[1] == LENGTHS[0] and not torch.equal(batch.ids[0], batch.ids[1])


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
