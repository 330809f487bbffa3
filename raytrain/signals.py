"""Ray Train's torch backend with one thing more: each worker takes SIGTERM as a notice to save (raytrain.stopping).

A signal handler can be set in a process's main thread only, and a Ray Train loop runs beside it. What a backend has its
workers execute when the group starts runs in the main thread.
"""

from dataclasses import dataclass

from ray.train.backend import Backend
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend


class _ListeningBackend(_TorchBackend):
    def on_start(self, worker_group, backend_config):  # type: ignore[no-untyped-def]
        """Set up torch's process group, and listen."""
        super().on_start(worker_group, backend_config)
        worker_group.execute(_listen)


def _listen() -> None:
    from raytrain.stopping import listen

    listen()


@dataclass
class ListeningTorchConfig(TorchConfig):
    """A TorchConfig whose workers listen for SIGTERM."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _ListeningBackend
