"""Start the served system on this machine, and stop it: `start(...) -> Served`.

Ray is initialised already. Everything that depends on the machine is checked before anything is started: the port
is free, the model folder is whole, the hardware is there. Invariants: the gateway listens on the loopback interface
only; when `start` returns, the gateway has answered; when it raises, nothing of it is left running.
"""

import http.client
import json
import signal
import socket
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
from rayserve.settings import LOOPBACK, EngineSettings, ServeSettings

APP_NAME = "agentmill"
POLL_S = 0.2
STOP_TIMEOUT_S = 30.0
_MODEL_FILES = ("config.json", "tokenizer_config.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


@dataclass
class Served:
    """A running system. `stop` is safe to call twice."""

    base_url: str
    seconds: float

    def stop(self) -> None:
        """Stop the gateway, the agents and the engine, and Serve itself."""
        _stop_serve()

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
        UserError: when the port is busy, the model folder is not usable, the hardware is missing, or the system
            does not come up in `settings.start_timeout_s`.
    """
    import ray

    if not ray.is_initialized():
        raise UserError("serving needs Ray; initialise it first (cluster.session.ray_session does)")
    began = time.monotonic()
    port = free_port(settings.port)
    if _controller() is not None:
        raise UserError("Ray Serve is already running in this Ray session; stop what it serves first")
    folder = checked_model(model_dir) if settings.model.kind == "engine" else None
    on_gpu = False
    if folder is not None:
        settings = settings.model_copy(update={"engine": fitted(settings.engine, folder)})
        on_gpu = _on_gpu(settings)
    _import_early(settings)
    base_url = f"http://{LOOPBACK}:{port}"
    say("serve", f"starting {_described(settings, folder, on_gpu)}")
    with _stopped_on_error():
        _deploy(settings, port, folder, on_gpu, domain, system or TeamSettings())
        _await_answer(base_url, began + settings.start_timeout_s)
    served = Served(base_url, time.monotonic() - began)
    say("serve", f"{base_url}/v1 answers as model {settings.gateway.model_name!r}, up in {duration(served.seconds)}")
    return served


def free_port(port: int) -> int:
    """`port` if nothing listens on it, any free one for 0.

    Raises:
        UserError: when the port is busy or may not be used.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise UserError(
                f"serve.port={port} cannot be used on {LOOPBACK}: {error.strerror}; stop the program that listens "
                f"there (see `ss -ltnp`) or choose another with --set serve.port=PORT, 0 for any free one"
            ) from error
        return int(probe.getsockname()[1])


def checked_model(model_dir: Path | str | None) -> Path:
    """The model folder, if it looks like a whole Hugging Face model.

    Raises:
        UserError: when it is missing, or a file that is needed is missing or broken.
    """
    if model_dir is None:
        raise UserError("serve.model.kind=engine needs a model folder; give one, or set serve.model.kind=expert")
    folder = Path(model_dir).resolve()
    remedy = "run the pipeline to its stage sft first, or name another folder"
    if not folder.is_dir():
        raise UserError(f"model folder {folder} does not exist; {remedy}")
    missing = [name for name in _MODEL_FILES if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in _WEIGHTS):
        missing.append(_WEIGHTS[0])
    if missing:
        raise UserError(f"model folder {folder} is not whole: {', '.join(missing)} missing; {remedy}")
    for name in _MODEL_FILES:
        try:
            json.loads((folder / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"model folder {folder}: {name} is not JSON ({error}); {remedy}") from error
    _check_weights(folder, remedy)
    return folder


def _check_weights(folder: Path, remedy: str) -> None:
    """Read the headers of the weights: a file that was cut short is found here and not minutes later."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as weights:
                weights.keys()
        except (SafetensorError, OSError) as error:
            raise UserError(f"model folder {folder}: {file.name} is broken ({error}); {remedy}") from error


def fitted(engine: EngineSettings, folder: Path) -> EngineSettings:
    """The engine's settings with a context that the model has; vLLM refuses to start with a longer one."""
    limit = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    if not isinstance(limit, int) or engine.max_model_len <= limit:
        return engine
    say("serve", f"serve.engine.max_model_len={engine.max_model_len} lowered to {limit}, which is what the model has")
    return engine.model_copy(update={"max_model_len": limit})


def _on_gpu(settings: ServeSettings) -> bool:
    import ray

    gpus = ray.cluster_resources().get("GPU", 0)
    if settings.engine.accelerator == "gpu" and not gpus:
        raise UserError(
            "serve.engine.accelerator=gpu, and Ray's cluster has no GPU; set it to auto or cpu, or start Ray on a "
            "machine with one"
        )
    return settings.engine.accelerator != "cpu" and gpus > 0


def _described(settings: ServeSettings, folder: Path | None, on_gpu: bool) -> str:
    if settings.model.kind == "expert":
        return "the five agents on the domain's expert (no weights)"
    if folder is None:
        return f"the five agents on {settings.model.name} at {settings.model.url}"
    return f"the five agents on one vLLM engine ({'GPU' if on_gpu else 'CPU'}) with {folder.name}"


def _import_early(settings: ServeSettings) -> None:
    """Import what the engine's application needs while Serve's own processes start: seconds, on another core."""
    if settings.model.kind == "engine":
        import importlib

        threading.Thread(target=importlib.import_module, args=("ray.serve.llm",), daemon=True).start()


def _deploy(
    settings: ServeSettings, port: int, folder: Path | None, on_gpu: bool, domain: str, system: TeamSettings
) -> None:
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    from rayserve.app import AppArguments, build_app

    timeout_s = settings.gateway.turn_timeout_s + 30
    serve.start(
        http_options=HTTPOptions(host=LOOPBACK, port=port, request_timeout_s=timeout_s), proxy_location="HeadOnly"
    )
    arguments = AppArguments(serve=settings, system=system, domain=domain, model_dir=str(folder or ""), on_gpu=on_gpu)
    target = serve.RunTarget(
        target=build_app(arguments),
        name=APP_NAME,
        route_prefix="/",
        logging_config=LoggingConfig(log_level="INFO", enable_access_log=False),
    )
    serve.run_many([target], wait_for_applications_running=False)


def _await_answer(base_url: str, deadline: float) -> None:
    """Poll until /health is good.

    Raises:
        UserError: when a deployment failed or the time is over.
    """
    while not _answers(base_url, timeout_s=10):
        trouble = _trouble()
        if trouble:
            raise UserError(f"the served system did not start: {trouble}")
        if time.monotonic() > deadline:
            raise UserError("the served system did not answer in time; raise serve.start_timeout_s or free the machine")
        time.sleep(POLL_S)


def _answers(base_url: str, timeout_s: float) -> bool:
    address = base_url.removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=timeout_s)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _trouble() -> str:
    """What Serve says of a deployment that will not come up, or nothing while there is hope."""
    from ray import serve

    application = serve.status().applications.get(APP_NAME)
    if application is None or application.status not in ("DEPLOY_FAILED", "UNHEALTHY"):
        return ""
    messages = [d.message for d in application.deployments.values() if d.message] or [application.message]
    return messages[0].strip().splitlines()[-1][:400] if messages[0] else str(application.status)


@contextmanager
def _stopped_on_error() -> Iterator[None]:
    done = False
    try:
        yield
        done = True
    finally:
        if not done:
            _stop_serve()


def _stop_serve() -> None:
    """Stop all of Serve.

    `serve.shutdown()` alone waits inside a call to the controller, which ends by killing the controller: Ray then
    prints a red line about the failed call (Ray 2.60). So the controller is told first and waited for.
    """
    import ray
    from ray import serve

    controller = _controller()
    if controller is None:
        return
    ray.get(controller.graceful_shutdown.remote(wait=False))
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while _controller() is not None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    serve.shutdown()


def _controller() -> Any:
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
