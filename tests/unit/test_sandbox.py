"""The sandbox, also below the whitelist: what a plan may not do is stopped, and the next plan runs."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from agentmill.plans.parse import Plan
from agentmill.plans.sandbox import Limits, Sandbox, SandboxError

TOOLS = {"see": lambda **given: {"free": True, "echo": given}, "many": lambda **given: [{"n": n} for n in range(3)]}


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(processes=2, limits=Limits(seconds=0.3)) as sandbox:
        yield sandbox


async def test_results_come_back_by_variable_for_the_calls_that_ran(sandbox: Sandbox) -> None:
    branch = 'if not a.free:\n    b = see()\nelse:\n    c = see(x=a["echo"]["x"])'
    plan = Plan.parse(f'a = see(x="ü", y=[1, None], z={{"k": -2.5}})\nsee()\n{branch}')
    results = await sandbox.run(plan, TOOLS)
    assert results == {
        "a": {"free": True, "echo": {"x": "ü", "y": [1, None], "z": {"k": -2.5}}},
        "c": {"free": True, "echo": {"x": "ü"}},
    }


async def test_a_loop_runs_over_a_result(sandbox: Sandbox) -> None:
    results = await sandbox.run(Plan.parse("all = many()\nfor one in all:\n    last = see(n=one.n)"), TOOLS)
    assert results["last"]["echo"] == {"n": 2}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("while True:\n    pass", "time"),
        ("x = []\nwhile True:\n    x.append('a' * 1000)", "memory"),
        ("x = 'a'\nwhile True:\n    x = x + x", "memory"),
        ("x = 'a' * 10 ** 12", "memory"),
        ("x = 10 ** (10 ** 9)", "memory"),
        ("while True:\n    see()", "calls"),
        ("import os\nos.listdir('/')", "runtime"),
        ("open('/etc/passwd').read()", "runtime"),
        ("from pathlib import Path\nPath('/etc/passwd').read_text()", "runtime"),
        ("import subprocess", "runtime"),
        ("__import__('os').system('id')", "type"),
        ("def f(n):\n    return f(n + 1)\nf(0)", "runtime"),
        ("nothing(a=1)", "type"),
        ("x = nothing", "type"),
        ("see(1)", "type"),
        ("see()['absent']", "runtime"),
        ("x = ((", "runtime"),
    ],
)
async def test_code_below_the_whitelist_is_stopped(sandbox: Sandbox, code: str, kind: str) -> None:
    began = time.perf_counter()
    with pytest.raises(SandboxError) as stopped:
        await sandbox.run_code(code, TOOLS)
    assert stopped.value.kind == kind
    assert time.perf_counter() - began < 5
    assert await sandbox.run_code("a = see()", TOOLS) == {}


async def test_sleeping_takes_no_time(sandbox: Sandbox) -> None:
    await asyncio.wait_for(sandbox.run_code("import time\ntime.sleep(3600)", TOOLS), 5)


async def test_what_a_tool_raises_comes_out_unchanged(sandbox: Sandbox) -> None:
    def broken(**given: Any) -> None:
        raise KeyError("the tool's own")

    with pytest.raises(KeyError, match="the tool's own"):
        await sandbox.run(Plan.parse("a = broken()"), {"broken": broken})


async def test_a_result_that_is_no_json_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(SandboxError) as stopped:
        await sandbox.run(Plan.parse("a = odd()"), {"odd": lambda: object()})
    assert stopped.value.kind == "type"


def worker_pids() -> set[int]:
    """The child processes of this one, whichever thread started them."""
    lists = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for children in lists for pid in children.read_text().split()}


async def test_a_worker_that_dies_costs_one_plan_and_is_replaced() -> None:
    before = worker_pids()
    async with Sandbox(processes=1) as sandbox:

        def kill(**given: Any) -> dict[str, bool]:
            for pid in worker_pids() - before:
                os.kill(pid, signal.SIGKILL)
            return {}

        with pytest.raises(SandboxError) as stopped:
            await sandbox.run(Plan.parse("a = kill()\nb = kill()"), {"kill": kill})
        assert stopped.value.kind == "crash"
        assert await sandbox.run(Plan.parse("a = see()"), TOOLS)


async def test_a_cancelled_plan_gives_its_worker_back() -> None:
    async with Sandbox(processes=1, limits=Limits(seconds=0.5)) as sandbox:
        running = asyncio.create_task(sandbox.run_code("while True:\n    pass", TOOLS))
        await asyncio.sleep(0.1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await sandbox.run(Plan.parse("a = see()"), TOOLS)


async def test_an_endless_plan_does_not_hold_up_the_event_loop_or_other_plans(sandbox: Sandbox) -> None:
    endless = asyncio.create_task(sandbox.run_code("while True:\n    pass", TOOLS))
    await asyncio.sleep(0.01)
    for _ in range(20):
        await sandbox.run(Plan.parse("a = see()"), TOOLS)
    assert not endless.done()
    with pytest.raises(SandboxError):
        await endless


async def test_many_plans_at_once_on_two_workers(sandbox: Sandbox) -> None:
    plans = [sandbox.run(Plan.parse(f"a = see(n={n})\nb = see()"), TOOLS) for n in range(200)]
    results = await asyncio.gather(*plans)
    assert [result["a"]["echo"]["n"] for result in results] == list(range(200))


async def test_a_closed_sandbox_says_so() -> None:
    with pytest.raises(RuntimeError, match="async with Sandbox"):
        await Sandbox().run_code("a = see()", TOOLS)
