"""Talk to a served system in the terminal: the reply as it streams, then what each agent did.

Speaks plain OpenAI chat completions with the gateway's extension field, and keeps one session for the conversation.
"""

import json
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import httpx

from agentmill.errors import UserError

TIMEOUT_S = 180.0
WIDTH = 100
_GATE = {
    "asked": "complex: the model evaluator was asked",
    "skipped": "simple: the model evaluator was not asked",
    "shadow_ok": "simple: not asked, and in the shadow it agrees",
    "shadow_rejected": "simple: not asked, and in the shadow it would have rejected the plan",
    "shadow_unjudged": "simple: not asked, and in the shadow it gave no verdict",
}


class ChatError(UserError):
    """The served system cannot be reached, or refused."""


def talk(url: str, *, show_agents: bool = True) -> None:
    """Read the customer's lines from standard input until its end (Ctrl-D) or `/quit`.

    Raises:
        ChatError: when nothing answers at `url`.
    """
    with httpx.Client(base_url=base_of(url), timeout=TIMEOUT_S, trust_env=not is_local(url)) as client:
        model = served_model(client)
        session = uuid.uuid4().hex
        messages: list[dict[str, str]] = []
        print(f"{model} at {url}. You are the customer; /new starts again, /quit or Ctrl-D ends.")
        for line in _lines():
            if line == "/quit":
                break
            if line == "/new":
                session, messages = uuid.uuid4().hex, []
                continue
            messages.append({"role": "user", "content": line})
            reply, details = ask(client, model, session, messages)
            messages.append({"role": "assistant", "content": reply})
            if show_agents:
                print_agents(details)


def base_of(url: str) -> str:
    """The server's address, whether or not the user gave it with `/v1`.

    Raises:
        ChatError: when it is no HTTP address.
    """
    if not url.startswith(("http://", "https://")):
        raise ChatError(f"--url {url} is no HTTP address; write for example http://127.0.0.1:8000")
    return url.rstrip("/").removesuffix("/v1")


def is_local(url: str) -> bool:
    """Whether the address is this machine, which no proxy can reach."""
    return httpx.URL(url).host in {"127.0.0.1", "localhost", "::1"}


def served_model(client: httpx.Client) -> str:
    """The name of the served system.

    Raises:
        ChatError: when nothing answers there, or something that is no such gateway.
    """
    try:
        response = client.get("/v1/models")
        response.raise_for_status()
        return str(response.json()["data"][0]["id"])
    except httpx.HTTPError as error:
        raise ChatError(
            f"{client.base_url}: {error}; start a system with `agentmill serve`, or give its --url"
        ) from error
    except (ValueError, LookupError, TypeError) as error:
        raise ChatError(
            f"{client.base_url} answers, but not as an OpenAI-compatible server; give another --url"
        ) from error


def ask(client: httpx.Client, model: str, session: str, messages: list[dict[str, str]]) -> tuple[str, dict[str, Any]]:
    """Send the conversation, print the reply piece by piece; returns it with the extension field of the last chunk.

    Raises:
        ChatError: when the gateway refuses or the connection breaks.
    """
    body = {"model": model, "messages": messages, "stream": True, "agentmill": {"trace": True}}
    pieces: list[str] = []
    details: dict[str, Any] = {}
    try:
        with client.stream("POST", "/v1/chat/completions", json=body, headers={"X-Session-Id": session}) as response:
            if response.status_code != 200:
                raise ChatError(f"the system refused: {_message(response.read())}")
            for chunk in events(response.iter_lines()):
                if "error" in chunk:
                    raise ChatError(f"the system stopped: {chunk['error'].get('message', chunk['error'])}")
                details = chunk.get("agentmill") or details
                for choice in chunk.get("choices", []):
                    piece = choice.get("delta", {}).get("content") or ""
                    pieces.append(piece)
                    print(piece, end="", flush=True)
    except httpx.HTTPError as error:
        raise ChatError(f"the connection to {client.base_url} broke: {error}; is `agentmill serve` running?") from error
    print()
    return "".join(pieces), details


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a server-sent event stream, up to its `[DONE]`."""
    for line in lines:
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or not data:
            continue
        if data == "[DONE]":
            return
        yield json.loads(data)


def print_agents(details: dict[str, Any]) -> None:
    """Show each call of the turn, and what it cost."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 1), pad_edge=False)
    for overflow in ("fold", "fold", "ignore", "ignore"):
        table.add_column(overflow=overflow, no_wrap=overflow == "ignore")
    for call in details.get("calls", []):
        cost = f"{call.get('prompt_tokens', 0)}+{call.get('completion_tokens', 0)} tokens"
        seconds = f"{1000 * float(call.get('latency_s', 0)):.0f} ms"
        status = "" if call.get("status") == "ok" else f"[{call.get('status')}] {call.get('error', '')} "
        table.add_row(
            str(call.get("agent", "")), status + str(call.get("output", "")).replace("\n", " ; "), cost, seconds
        )
    gate = _gate(details.get("turn", {}))
    if gate:
        table.add_row("gate", gate, "", "")
    if table.row_count:
        Console(stderr=True, style="dim", width=None if sys.stderr.isatty() else WIDTH).print(table, markup=False)


def _gate(turn: dict[str, Any]) -> str:
    """What became of the turn's plan at the complexity gate; nothing where no plan came so far."""
    said = _GATE.get(turn.get("gate", ""))
    return f"{said} (complexity {float(turn.get('complexity', 0)):.1f})" if said else ""


def _lines() -> Iterator[str]:
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        if line:
            yield line


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return body.decode(errors="replace")[:300]
