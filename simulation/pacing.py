"""The models of one process with their limits: each server's calls go through one Flow, whatever role they are for.

    ModelSettings by role -> Flows.paced -> ChatModel          in each actor
    the actors' reports in <work>/flows -> record_flows        in the driver

Invariants: two roles that ask the same model of the same server share its limit; the expert answers at once and has
none; waiting for a place is not the model's time, so that a call's time-out begins when it has its place.
"""

import asyncio
import json
import math
import shutil
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from agentmill.domains.base import Domain
from agentmill.models.chat import ChatModel, ChatReply, ChatRequest, ModelError, ReportsLoad
from agentmill.runs import Run
from simulation.flow import CROWD, Crowd, Flow, FlowReport
from simulation.models import ModelSettings, build_model, closing

_FOLDER = "flows"
_REPORT_EVERY_S = 1.0


class Paced:
    """A ChatModel whose calls wait for a place in `flow`, and may then take `timeout_s`; None leaves that to it.

    A model that reports its server's load reports it to the flow.
    """

    def __init__(self, model: ChatModel, flow: Flow, timeout_s: float | None = None) -> None:
        self._model = model
        self._flow = flow
        self._timeout_s = timeout_s
        if isinstance(model, ReportsLoad):
            model.listener = flow

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The model's answer, once there is a place. See ChatModel."""
        async with self._flow.place(request.agent):
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._model.complete(request)
            except TimeoutError as error:
                self._flow.pushed_back()
                within = "" if self._timeout_s is None else f" within {self._timeout_s:g} s"
                raise ModelError(f"no answer{within}") from error


class Flows:
    """The flows of one actor, at most `maximum` calls in flight each.

    Their reports are written into the work folder of the job whose stop file is `stop`.
    """

    def __init__(self, maximum: int, stop: str) -> None:
        self.maximum = maximum
        self._by_server: dict[str, Flow] = {}
        self._by_role: dict[str, Flow] = {}
        self._report = _folder(Path(stop).parent) / f"{uuid.uuid4().hex}.json"
        self._written = 0.0
        self._crowd: Crowd | None = None
        self._models: list[ChatModel] = []

    def paced(self, role: str, settings: ModelSettings, domain: Domain, timeout_s: float | None = None) -> ChatModel:
        """The model of `settings`, its calls limited; the figures are named after `role`."""
        assert self._crowd is None, "the crowd counts the places of all models: make them before it"
        model = build_model(settings, domain)
        if settings.kind == "expert":
            return model
        self._models.append(model)
        flow = self._by_server.setdefault(settings.server, Flow(self.maximum))
        self._by_role[role] = flow
        return Paced(model, flow, timeout_s)

    @property
    def crowd(self) -> Crowd:
        """The limit of conversations that goes with these models."""
        if self._crowd is None:
            self._crowd = Crowd(self._by_server.values())
        return self._crowd

    @property
    def calls(self) -> int:
        """How many calls were answered."""
        return sum(flow.calls for flow in self._by_server.values())

    async def close(self) -> None:
        """Close the models' connections."""
        async with closing(*self._models):
            self._models = []

    def note(self) -> None:
        """Write down where the flows stand, at most once a second."""
        now = time.monotonic()
        if self._by_role and now - self._written >= _REPORT_EVERY_S:
            self._written = now
            self._report.parent.mkdir(parents=True, exist_ok=True)
            reports = {role: asdict(flow.report()) for role, flow in self._by_role.items()}
            half = self._report.with_suffix(".part")
            half.write_text(json.dumps(reports), encoding="utf-8")  # not worth waiting for the disk, as all calls would
            half.replace(self._report)


def blocks_at_once(models: Iterable[ModelSettings], in_flight: int, block_rows: int) -> int:
    """How many blocks of conversations an actor needs at once to keep `in_flight` calls under way at each server.

    A conversation is busy elsewhere some of the time, and the last ones of a block leave its other places empty: the
    crowd's room, and a block for each eight of them. Experts have no limit, and `in_flight` conversations.
    """
    servers = {model.server for model in models if model.kind != "expert"}
    conversations = math.ceil(CROWD * in_flight * len(servers)) if servers else in_flight
    blocks = max(1, conversations // block_rows)
    return blocks + math.ceil(blocks / 8) if servers else blocks


def forget_flows(work: Path) -> None:
    """Remove what an earlier attempt's actors wrote."""
    shutil.rmtree(_folder(work), ignore_errors=True)


def record_flows(run: Run, stage: str, work: Path) -> None:
    """Record `<stage>.in_flight.<role>.*` over all actors: final limits, the highest one, what cut them."""
    for role, reports in _read(work).items():
        name = f"{stage}.in_flight.{role}"
        run.record(f"{name}.final", sum(one.limit for one in reports), n=len(reports), unit="calls")
        run.record(f"{name}.peak", max(one.peak for one in reports), n=len(reports), unit="calls")
        run.record(f"{name}.decreases", sum(one.decreases for one in reports), n=len(reports))
        run.record(f"{name}.pushed_back", sum(one.pushes for one in reports), n=len(reports), unit="calls")


def _read(work: Path) -> dict[str, list[FlowReport]]:
    found: dict[str, list[FlowReport]] = defaultdict(list)
    for file in sorted(_folder(work).glob("*.json")):
        for role, report in json.loads(file.read_text(encoding="utf-8")).items():
            found[role].append(FlowReport(**report))
    return found


def _folder(work: Path) -> Path:
    return work / _FOLDER
