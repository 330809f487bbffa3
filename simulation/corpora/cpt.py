"""X_CPT: texts of the domain, dialogues and public text, each with its context C_x, for continued pretraining.

The context is the prompt and the text the completion, so that the loss counts the text alone. Dialogues hold what the
judge left of the replies; one is cut before a reply that could not be judged. Invariant: a text is whole or left out,
by its length; what is cut off a dialogue is its end, never its middle.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentmill.agents.frames import render_frame
from agentmill.domains.base import Domain
from simulation.corpora.contexts import ContextWriter
from simulation.corpora.public import PublicDialogue
from simulation.corpora.rows import PUBLIC, TRACES, Candidate, Split, assistant, key64, lineage
from simulation.corpora.settings import CptSettings
from simulation.corpora.sieve import Sieve
from simulation.corpora.traces import Talk

DOCUMENTS = "documents"
_SPEAKERS = {"user": "Customer", "assistant": "Assistant", "system": "System"}
Said = tuple[str, str]  # (role, what was said)


@dataclass(frozen=True)
class Text:
    """A text to learn, what is known of it, and what stands before it ("" where nothing does)."""

    text: str
    about: Mapping[str, Any]
    preceding: str
    whole: str
    split: Split
    origin: str
    agent: str
    call_id: str
    sid: str
    source: str


class CptCorpus:
    """Gives texts their contexts, `in_flight` at a time where a model writes them, and passes them on."""

    def __init__(self, sieve: Sieve, settings: CptSettings, writer: ContextWriter | None, run: str) -> None:
        self.left_out: Counter[str] = Counter()
        self._sieve = sieve
        self._settings = settings
        self._writer = writer
        self._run = run
        self._waiting: list[Text] = []

    def add(self, text: Text) -> None:
        """Take a text."""
        if len(text.whole) > self._settings.max_characters:
            self.left_out["too long"] += 1
            return
        self._waiting.append(text)
        if len(self._waiting) >= self._settings.in_flight:
            self.flush()

    def flush(self) -> None:
        """Pass on what waits for its context."""
        waiting, self._waiting = self._waiting, []
        told = self._writer.describe([text.whole for text in waiting]) if self._writer else [None] * len(waiting)
        for text, context in zip(waiting, told, strict=True):
            self._sieve.add(self._candidate(text, context))

    def _candidate(self, text: Text, context: str | None) -> Candidate:
        learnt = text.whole
        if context is None:
            context = render_frame(text.about)
            if self._settings.context == "preceding" and text.preceding:
                context, learnt = text.preceding, text.text
        prompt = [{"role": "user", "content": context}]
        origin = lineage(agent=text.agent, call_id=text.call_id, sid=text.sid, source=text.source, run=self._run)
        return Candidate({"prompt": prompt, "completion": assistant(learnt), **origin}, text.split, text.origin)


def document_texts(domain: Domain) -> Iterator[Text]:
    """The pack's documents; what stands before one is the document before it from the same source."""
    before: dict[str, str] = {}
    for row in domain.documents():
        text, source = row["document"], row["source"]
        yield Text(
            text=text, about={"source": source, **row["context"]}, preceding=before.get(source, ""), whole=text,
            split="train", origin=DOCUMENTS, agent="document", call_id=f"document-{key64(source + text):016x}", sid="",
            source=source,
        )  # fmt: skip
        before[source] = text


def dialogue_text(talk: Talk, domain: Domain, left_out: Counter[str]) -> Text | None:
    """A conversation's dialogue up to the first reply that could not be judged; None where nothing is left."""
    said: list[Said] = []
    for turn in talk.turns:
        reply = _judged_reply(talk, turn["turn"], turn["reply"])
        if reply is None:
            left_out["dialogue cut at an unjudged reply"] += 1
            break
        said += [("user", turn["utterance"]), ("assistant", reply)]
    if not said:
        return None
    wishes = dict.fromkeys(intent for goal in talk.scenario.goals for intent in (goal.intent, *goal.also))
    about: dict[str, Any] = {"source": f"{domain.name}/dialogue", "business": domain.title}
    if talk.scenario.topic:
        about["topic"] = talk.scenario.topic
    about |= {"customer": talk.scenario.persona, "wishes": ", ".join(wishes)}
    return _dialogue(said, about, split=talk.split, origin=TRACES, identity=talk.sid, source="dialogue")


def public_text(dialogue: PublicDialogue, split: Split) -> Text:
    """A real dialogue, whole."""
    said: list[Said] = [(message.role, message.content) for message in dialogue.messages]
    about = {"source": "public/dialogue", **dialogue.about}
    return _dialogue(said, about, split=split, origin=PUBLIC, identity=dialogue.id, source=PUBLIC)


def _judged_reply(talk: Talk, turn: int, reply: str) -> str | None:
    """The reply as the judge left it: of the last call that said it. A reply that no agent wrote stays as it is."""
    for call in reversed(talk.calls):
        if call["turn"] == turn and call["agent"] == "explainer" and call["output"].strip() == reply.strip():
            return None if call["verdict"] == "unjudged" else str(call["refined"])
    return reply


def _dialogue(
    said: Sequence[Said], about: dict[str, Any], *, split: Split, origin: str, identity: str, source: str
) -> Text:
    half = max(1, len(said) // 2)
    return Text(
        text=_lines(said[half:]), about=about, preceding=_lines(said[:half]), whole=_lines(said), split=split,
        origin=origin, agent=PUBLIC if origin == PUBLIC else "dialogue", call_id=f"dialogue-{identity}", sid=identity,
        source=source,
    )  # fmt: skip


def _lines(said: Sequence[Said]) -> str:
    return "\n".join(f"{_SPEAKERS[role]}: {text}" for role, text in said)
