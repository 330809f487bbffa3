"""System texts and documents are written from a pack's tables, and plans back from their trees."""

import ast

import pytest

from agentmill.domains.automotive import build
from agentmill.domains.kit.documents import handbook
from agentmill.domains.kit.prompts import Wording, build_prompts
from agentmill.domains.kit.writing import call, written
from tests.fakes import library

WORDING = Wording("The {Library}", "a library", "Write {titles} as they are.", ("find_book()",), "Be brief.", "Read.")


def test_prompts_name_every_table_row_in_full_and_one_line_in_brief() -> None:
    pack = library()
    tables = (pack.entities.values(), pack.intents.values(), pack.tools.values(), pack.rules)
    prompts = build_prompts(WORDING, *tables)
    assert prompts["brief"]["planner"] == "Planner of The {Library}. Reply with a plan."
    assert prompts["brief"]["judge"] == prompts["full"]["judge"]
    full = prompts["full"]
    assert all(name in full["understander"] for name in [*pack.intents, *pack.entities, "{titles}", "memory", "also"])
    assert all(name in full["planner"] for name in [*pack.tools, "COPY_CHECK", "find_book()"])
    assert all(code in full["evaluator"] for code in ("COPY_CHECK", "INCOMPLETE_PLAN", "NEEDLESS_CALL"))
    assert full["explainer"].endswith("\nBe brief.")


def test_a_pack_s_brief_prompts_are_one_line_each() -> None:
    brief = build().prompts["brief"]
    assert [brief[agent].count("\n") for agent in ("understander", "planner", "evaluator", "explainer")] == [0] * 4


def test_the_handbook_has_a_document_for_every_intent_tool_and_rule() -> None:
    pack = library()
    rows = handbook("library", "The Library", pack.intents.values(), pack.tools.values(), pack.rules)
    assert len(rows) == len(pack.intents) + len(pack.tools) + len(pack.rules)
    assert all(row.keys() == {"document", "context", "source"} for row in rows)


def test_calls_are_written_as_a_plan_reads_them() -> None:
    known = {"title": 'A "quoted" ü', "shelf": 4, "gone": None, "open": True}
    text = call("f", known, "title", "shelf", "gone", "open", "absent", book='books[0]["id"]')
    assert text == 'f(title="A \\"quoted\\" ü", shelf=4, gone=None, open=True, book=books[0]["id"])'
    ast.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        'a = f(x="1")\nif a["ok"] and (a["b"] or a["c"]) and not a["d"]:\n    g()\nelse:\n    h()',
        'for b in a["list"]:\n    if b["x"] > 3:\n        f(y=b["x"])',
    ],
)
def test_a_tree_is_written_back_in_its_own_words(text: str) -> None:
    assert written(ast.parse(text).body, text) == text
