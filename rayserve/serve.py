"""Start the served system on this machine, and stop it: `start(...) -> Served`.

Ray is initialised already. Everything that depends on the machine is checked before anything is started: the port
is free, the model folder is whole, the hardware is there. Invariants: the gateway listens on the loopback interface
only; when `start` returns, the gateway has answered; when it raises, nothing of it is left running.
"""

import http.client
import importlib.util
import logging
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentmill.agents.settings import TeamSettings
from agentmill.config import UserError
from agentmill.log import duration, say
from rayserve.preflight import check_worlds, checked_model, fitted, free_port, wants_gpu
from rayserve.settings import LOOPBACK, AppArguments, ServeSettings

APP_NAME = "agentmill"
POLL_S = 0.2
STOP_TIMEOUT_S = 30.0
_VLLM_ERROR = re.compile(r"^\((?:Worker|EngineCore)\b.* ERROR .*?\] (\w+(?:Error|Exception): .+)$", re.MULTILINE)


@dataclass
class Served:
    """A running system. `stop` is safe to call twice."""

    base_url: str
    seconds: float

    def stop(self) -> None:
        """Stop the gateway, the agents and the engine, and Serve itself."""
        stop_serve()

    def wait(self, poll_s: float = 2.0) -> None:
        """Stay until interrupted.

        Raises:
            UserError: when the system no longer answers.
        """
        missed = 0
        while missed < 5:
            time.sleep(poll_s)
            missed = 0 if _answers(self.base_url, timeout_s=10) else missed + 1
        raise UserError(f"{self.base_url} stopped answering; start it again, its log is in Ray's session folder")


def start(
    settings: ServeSettings, model_dir: Path | str | None = None, *, domain: str, system: TeamSettings | None = None
) -> Served:
    """Start the system and wait until it answers. `model_dir` is needed where settings.model.kind is `engine`.

    Raises:
        UserError: when the port is busy, the worlds' database or the model folder is not usable, the hardware is
            missing, or the system does not come up in `settings.start_timeout_s`.
    """
    import ray

    if not ray.is_initialized():
        raise UserError("serving needs Ray; initialise it first (cluster.session.ray_session does)")
    began = time.monotonic()
    port = free_port(settings.port)
    if serve_controller() is not None:
        raise UserError("Ray Serve is already running in this Ray session; stop what it serves first")
    system = system or TeamSettings()
    check_worlds(system.world, domain)
    folder = checked_model(model_dir) if settings.model.kind == "engine" else None
    on_gpu = False
    if folder is not None:
        settings = settings.model_copy(update={"engine": fitted(settings.engine, folder)})
        on_gpu = wants_gpu(settings.engine)
    importing = _importing(settings)
    base_url = f"http://{LOOPBACK}:{port}"
    say("serve", f"starting {_described(settings, folder, on_gpu)}")
    with stopped_on_error():
        start_http(port, timeout_s=2 * settings.gateway.turn_timeout_s + 30)  # for the conversation, then the turn
        importing.join()
        _deploy(AppArguments(serve=settings, system=system, domain=domain, model_dir=str(folder or ""), on_gpu=on_gpu))
        await_answer(APP_NAME, base_url, began + settings.start_timeout_s)
    served = Served(base_url, time.monotonic() - began)
    say("serve", f"{base_url}/v1 answers as model {settings.gateway.model_name!r}, up in {duration(served.seconds)}")
    return served


def _described(settings: ServeSettings, folder: Path | None, on_gpu: bool) -> str:
    if settings.model.kind == "expert":
        return "the five agents on the domain's expert (no weights)"
    if folder is None:
        return f"the five agents on {settings.model.name} at {settings.model.url}"
    return f"the five agents on one vLLM engine ({'GPU' if on_gpu else 'CPU'}) with {folder.name}"


def _importing(settings: ServeSettings) -> threading.Thread:
    """Import what the engine's application needs while Serve's own processes start: seconds, on another core.

    Raises:
        UserError: when vLLM is not installed.
    """
    if settings.model.kind == "engine" and importlib.util.find_spec("vllm") is None:
        raise UserError(
            "serve.model.kind=engine needs vLLM, which is not installed; install agentmill[cpu] or agentmill[gpu], "
            "or set serve.model.kind=expert"
        )
    thread = threading.Thread(target=import_engine if settings.model.kind == "engine" else _import_serve, daemon=True)
    thread.start()
    return thread


def import_engine() -> None:
    """Import ray.serve.llm and undo what it does to this process's root logger (Ray 2.60: JSON lines from INFO on)."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    importlib.import_module("rayserve.engine")
    root.handlers[:] = handlers
    root.setLevel(level)


def _import_serve() -> None:
    importlib.import_module("rayserve.app")


def start_bare() -> None:
    """Start Serve without HTTP.

    Of this process nothing is logged but what is raised: a handle whose event loop has ended says, as an error, that it
    hears no more of its replicas when Serve stops (Ray 2.60). The replicas have logs of their own.
    """
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
    serve.start(proxy_location="Disabled")


def start_http(port: int, timeout_s: float) -> None:
    """Start Serve, listening on the loopback interface only; a request may take `timeout_s`."""
    from ray import serve
    from ray.serve.config import HTTPOptions

    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # of this process; the replicas have their own
    serve.start(
        http_options=HTTPOptions(host=LOOPBACK, port=port, request_timeout_s=timeout_s), proxy_location="HeadOnly"
    )


def _deploy(arguments: AppArguments) -> None:
    from ray import serve
    from ray.serve.schema import LoggingConfig

    from rayserve.app import build_app

    target = serve.RunTarget(
        target=build_app(arguments),
        name=APP_NAME,
        route_prefix="/",
        logging_config=LoggingConfig(log_level="INFO", enable_access_log=False),
    )
    serve.run_many([target], wait_for_applications_running=False)


def await_answer(app: str, base_url: str, deadline: float, setting: str = "serve.start_timeout_s") -> None:
    """Poll until /health of an application is good; `setting` is the one that sets the deadline.

    Raises:
        UserError: when a deployment failed or the time is over.
    """
    while not _answers(base_url, timeout_s=10):
        wrong = trouble(app)
        if wrong:
            raise UserError(f"the served system did not start: {wrong}; Ray's logs are in {_log_folder()}")
        if time.monotonic() > deadline:
            raise UserError(f"the served system did not answer in time; raise {setting} or free the machine")
        time.sleep(POLL_S)


def _answers(base_url: str, timeout_s: float) -> bool:
    address, _, path = base_url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(address, timeout=timeout_s)
    try:
        connection.request("GET", f"/{path}/health" if path else "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def trouble(app: str) -> str:
    """What Serve says of a deployment that will not come up, or nothing while there is hope."""
    from ray import serve

    application = serve.status().applications.get(app)
    if application is None or application.status not in ("DEPLOY_FAILED", "UNHEALTHY"):
        return ""
    messages = [d.message for d in application.deployments.values() if d.message] or [application.message]
    said = messages[0].strip().splitlines()[-1][:400] if messages[0] else str(application.status)
    return _root_cause() or said


def _root_cause() -> str:
    """The first error that vLLM's own processes logged: what reaches Serve says only that there was one."""
    for log in sorted(_log_folder().glob("worker-*.out"), key=lambda file: file.stat().st_mtime, reverse=True):
        found = _VLLM_ERROR.search(log.read_text(encoding="utf-8", errors="replace"))
        if found:
            return found.group(1)[:400]
    return ""


def _log_folder() -> Path:
    import ray

    return Path(ray._private.worker._global_node.get_session_dir_path(), "logs")


@contextmanager
def stopped_on_error() -> Iterator[None]:
    done = False
    try:
        yield
        done = True
    finally:
        if not done:
            stop_serve()


def stop_serve() -> None:
    """Stop all of Serve.

    `serve.shutdown()` alone waits inside a call to the controller, which ends by killing the controller: Ray then
    prints a red line about the failed call (Ray 2.60). So the controller is told first and waited for.
    """
    import ray
    from ray import serve

    controller = serve_controller()
    if controller is None:
        return
    ray.get(controller.graceful_shutdown.remote(wait=False))
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while serve_controller() is not None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    serve.shutdown()


def serve_controller() -> Any:
    """Serve's controller, None where Serve does not run."""
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        return ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return None


def interrupted(served: Served) -> None:
    """Run in the foreground until Ctrl-C or SIGTERM, then stop cleanly."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        served.wait()
    except KeyboardInterrupt:
        say("serve", "stopping")
    finally:
        signal.signal(signal.SIGTERM, before)
        served.stop()
