"""X_CPT and personal data in traces: contexts from everywhere, judged replies, names that still match their plans."""

import json
import re
from pathlib import Path

import pytest

from agentmill.domains.base import Domain, load_domain
from agentmill.models.chat import ChatRequest, ModelError
from simulation.corpora import CorporaSettings
from simulation.corpora.contexts import ContextWriter
from simulation.corpora.cpt import CptCorpus, document_texts
from simulation.corpora.rows import Candidate
from simulation.corpora.settings import CptSettings, NearSettings, PersonalSettings
from simulation.models import ModelSettings
from tests.fakes import ScriptedModel
from tests.traces import MadeRun, learnt

EXACT = NearSettings(threshold=None)


@pytest.fixture(scope="module")
def automotive() -> Domain:
    return load_domain("automotive")


@pytest.fixture
def made(tmp_path: Path, automotive: Domain) -> MadeRun:
    made = MadeRun(tmp_path / "run", automotive)
    made.conversation("talk")
    for number, name in enumerate(("one", "two", "three")):
        made.turn("talk", f"Question {name}?", f"Answer {name}.")
        made.call("talk", f"customer: Question {name}?", f"Answer {name}.", turn=number)
    return made


def dialogues(made: MadeRun) -> list[dict[str, object]]:
    return [row for row in made.rows("cpt") if row["agent"] == "dialogue"]


def test_a_dialogue_holds_what_the_judge_left_of_the_replies(made: MadeRun) -> None:
    made.calls[1] |= {"verdict": "edit", "refined": "A better answer."}
    made.build(CorporaSettings())
    [row] = dialogues(made)
    assert "Customer: Question two?\nAssistant: A better answer.\nCustomer: Question three?" in learnt(row)
    assert row["prompt"][0]["content"].startswith("source: automotive/dialogue\n")  # type: ignore[index]
    assert "wishes: small_talk" in row["prompt"][0]["content"]  # type: ignore[index]


def test_a_dialogue_ends_before_a_reply_that_could_not_be_judged(made: MadeRun) -> None:
    made.calls[1] |= {"verdict": "unjudged", "refined": ""}
    made.build(CorporaSettings())
    [row] = dialogues(made)
    assert learnt(row) == "Customer: Question one?\nAssistant: Answer one."
    assert made.figure("corpora.cpt.left_out.dialogue_cut_at_an_unjudged_reply") == 1


def test_the_context_may_be_the_text_before(made: MadeRun) -> None:
    made.build(CorporaSettings(cpt=CptSettings(context="preceding")))
    [row] = dialogues(made)
    assert row["prompt"][0]["content"].startswith("Customer: Question one?")  # type: ignore[index]
    assert learnt(row).endswith("Customer: Question three?\nAssistant: Answer three.")
    whole = [row["document"] for row in made.domain.documents()]
    contexts = {learnt(row): row["prompt"][0]["content"] for row in made.rows("cpt") if row["agent"] == "document"}
    assert contexts[whole[1]] == whole[0]


def test_a_text_that_is_too_long_is_left_out_whole(made: MadeRun) -> None:
    made.turn("talk", "Well?", "x" * 200)
    made.build(CorporaSettings(cpt=CptSettings(max_characters=150)))
    assert dialogues(made) == []
    assert made.figure("corpora.cpt.left_out.too_long") >= 1


class Kept:
    """Stands where a sieve stands and keeps what comes."""

    def __init__(self) -> None:
        self.candidates: list[Candidate] = []

    def add(self, candidate: Candidate) -> None:
        self.candidates.append(candidate)


def test_a_model_describes_each_text_and_metadata_stand_in_where_it_does_not(automotive: Domain) -> None:
    def describe(request: ChatRequest) -> str:
        if "Ford" in request.messages[-1].content:
            raise ModelError("busy", retryable=False)
        return f"About {len(request.messages[-1].content)} characters."

    settings = CptSettings(context="model", model=ModelSettings(kind="endpoint", url="http://x/v1", name="m"))
    kept, writer = Kept(), ContextWriter(ScriptedModel(judge=describe), settings.model, 1)
    corpus = CptCorpus(kept, settings, writer, "run")  # type: ignore[arg-type]
    for text in document_texts(automotive):
        corpus.add(text)
    corpus.flush()
    writer.close()
    contexts = [(c.row["prompt"][0]["content"], learnt(c.row)) for c in kept.candidates]
    assert len(contexts) == len(automotive.documents()) == writer.asked
    for context, told in contexts:
        assert context.startswith("source: automotive/") if "Ford" in told else context.startswith("About ")
    assert writer.failures == sum("Ford" in told for _, told in contexts) > 0


def test_the_expert_cannot_describe_texts() -> None:
    with pytest.raises(ValueError, match="context=model needs a model"):
        CptSettings(context="model")


@pytest.mark.parametrize("name", ["automotive", "library_desk"])
def test_the_documents_cover_every_tool_rule_and_intent(name: str) -> None:
    domain = load_domain(name)
    texts = "\n".join(row["document"] for row in domain.documents())
    assert all(f"{tool}(" in texts for tool in domain.tools)
    assert all(f"{rule.code}: " in texts for rule in domain.rules)
    assert all(intent.description in texts for intent in domain.intents.values())


def test_names_in_traces_are_replaced_and_plans_still_match_their_prompts(tmp_path: Path, automotive: Domain) -> None:
    made = MadeRun(tmp_path / "run", automotive)
    made.conversation("talk", name="Ann Lee")
    said = "I am Ann Lee, plate ABC1234 please"
    heard = {"intent": "book_service", "entities": {"name": "Ann Lee", "plate": "ABC1234"}, "confirmed": False}
    made.call("talk", f"intent: none\nassistant: none\ncustomer: {said}", json.dumps(heard), agent="understander")
    frame = "intent: book_service\nplate: ABC1234\nname: Ann Lee"
    plan = 'visit = book_service(name="Ann Lee", plate="ABC1234")'
    made.call("talk", frame, plan, agent="planner", output=plan.replace("ABC", "abc"), verdict="edit")
    made.call("talk", f"customer: {said}", "It is booked, Ann, for ABC1234.")
    made.turn("talk", said, "It is booked, Ann, for ABC1234.")
    made.build(CorporaSettings(near_duplicates=EXACT, personal=PersonalSettings(traces=True)))
    rows = {row["agent"]: row for row in made.rows("sft")}
    everything = json.dumps([*rows.values(), *made.rows("dpo"), *dialogues(made), *made.rows("drafter")])
    assert not re.search(r"\bann\b|\blee\b|abc1234", everything, re.IGNORECASE)
    entities = json.loads(learnt(rows["understander"]))["entities"]
    frame = rows["planner"]["prompt"][1]["content"]
    assert f"name: {entities['name']}" in frame and f"plate: {entities['plate']}" in frame
    assert learnt(rows["planner"]) == f'visit = book_service(name="{entities["name"]}", plate="{entities["plate"]}")'
    assert learnt(rows["explainer"]) == f"It is booked, {entities['name'].split()[0]}, for {entities['plate']}."
    assert made.figure("corpora.personal.person") == made.figure("corpora.personal.plate") == 1


def test_made_up_customers_are_left_as_they_are_by_default(made: MadeRun) -> None:
    made.call("talk", "customer: my name is Ann Lee", "Hello Ann Lee!")
    made.build(CorporaSettings())
    assert any(learnt(row) == "Hello Ann Lee!" for row in made.rows("sft"))
