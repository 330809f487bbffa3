"""Switches of the business over HTTP: an evaluator's call of the sessions API, and nobody else's."""

from typing import Any

import pytest

from tests.gateways import Make


async def test_an_evaluator_changes_the_business_of_one_session_between_its_turns(gateway: Make) -> None:
    served = gateway(sessions_api=True)
    opened = (await served.http.post("/v1/sessions", json={"world_seed": 1})).json()
    path = f"/v1/sessions/{opened['id']}/switches"
    for _ in range(2):
        shown = await served.http.post(path, json={"name": "copy_lost:Dune"})
        assert (shown.status_code, shown.json()["state"]["switches"]) == (200, ["copy_lost:Dune"])
    world = (await served.http.get(f"/v1/sessions/{opened['id']}")).json()["world"]
    assert world["books"]["Dune"] == 1
    said = {"agentmill": {"trace": True}, "headers": {"X-Session-Id": opened["id"]}}
    turns = [(await served.say("Where is Dune?", **said))["agentmill"]["turn"]["switches"] for _ in range(2)]
    assert turns == [["copy_lost:Dune"], []]


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"name": "copy_lst:Dune"}, 400, "did you mean copy_lost"),
        ({"name": "copy_lost:Hamlet"}, 400, "there is no book Hamlet"),
        ({"name": ""}, 400, "name"),
        ({}, 400, "name"),
    ],
)
async def test_a_switch_that_cannot_be_made_is_told(
    gateway: Make, body: dict[str, Any], status: int, sentence: str
) -> None:
    served = gateway(sessions_api=True)
    opened = (await served.http.post("/v1/sessions", json={"world_seed": 1})).json()
    answer = await served.http.post(f"/v1/sessions/{opened['id']}/switches", json=body)
    assert answer.status_code == status
    assert sentence in answer.json()["error"]["message"]


async def test_customers_cannot_change_the_business(gateway: Make) -> None:
    served = gateway()
    assert (await served.http.post("/v1/sessions/any/switches", json={"name": "copy_lost:Dune"})).status_code == 404
    open_to_all = gateway(sessions_api=True)
    answer = await open_to_all.http.post("/v1/sessions/none/switches", json={"name": "copy_lost:Dune"})
    assert answer.status_code == 404
