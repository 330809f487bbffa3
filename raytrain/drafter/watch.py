"""In vLLM's worker process: the states of the documents that the engine is given, as it computes them.

vLLM gives its worker the methods of `StateWatch` (`worker_extension_cls`), and `collective_rpc` calls them. Hooks see
each forward pass: its tokens and positions, and what goes into the chosen layers and the last norm, which is
hidden + residual where vLLM keeps the two apart. They need `enforce_eager`.

No request is known by name here. A document is its tokens, and its states are a function of them: a run of tokens from
position 0 on is a document or the beginning of one, and what a chunked prefill computes later goes on where that ended.
Invariant: `take` returns the states of exactly the documents that it is asked for, every position of them, or fails.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]
Document = list[int]


class StateWatch:
    """What vLLM's worker can do beside its own work."""

    _states: "PassWatch"

    def watch_states(self: Any, layers: list[int]) -> None:
        """Keep the states of these layers, and those before the last norm, from now on."""
        self._states = PassWatch(self.get_model(), layers)

    def take_states(self: Any, documents: list[Document]) -> bytes | None:
        """`PassWatch.take`, row by row. Of several workers that a model is cut over each has all states, and the first
        answers. As bytes: of what vLLM passes on between its processes an array does not arrive as one."""
        states = self._states.take(documents)
        return to_array(states).tobytes() if self.rank == 0 else None


class PassWatch:
    """Looks at the forward passes of a model as vLLM builds it: `model.model` has `layers` and `norm`."""

    def __init__(self, model: torch.nn.Module, layers: Sequence[int]) -> None:
        inner: Any = model.model
        self._read: list[tuple[Document, list[torch.Tensor]]] = []  # tokens from position 0 on, and their states
        self._pass: dict[int, torch.Tensor] = {}
        self._tokens: Document = []
        self._positions: list[int] = []
        model.register_forward_pre_hook(self._begin, with_kwargs=True)
        for place, layer in enumerate(layers):
            inner.layers[layer].register_forward_pre_hook(self._look_at(place))
        inner.norm.register_forward_pre_hook(self._end)

    def take(self, documents: Sequence[Document]) -> torch.Tensor:
        """The states of the documents one after the other, [tokens, (layers + 1) * width]: the chosen layers in their
        order, then what goes into the last norm. What was seen is forgotten.

        Raises:
            LookupError: when a document, or a part of it, was not seen.
        """
        found = {tuple(tokens): states for tokens, states in self._read}
        self._read = []
        missing = [document for document in documents if tuple(document) not in found]
        if missing:
            raise LookupError(
                f"the engine computed no states of {len(missing)} of {len(documents)} documents, the first of "
                f"{len(missing[0])} tokens: is its prefix cache off, and enforce_eager on?"
            )
        return torch.cat([part for document in documents for part in found[tuple(document)]])

    def _begin(self, module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._tokens, self._positions = named["input_ids"].tolist(), named["positions"].tolist()
        self._pass = {}

    def _look_at(self, place: int) -> Any:
        def look(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
            _, hidden, residual = arguments
            self._pass[place] = _state(hidden, residual)

        return look

    def _end(self, module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        hidden, residual = arguments
        states = [state for _, state in sorted(self._pass.items())]
        self._add(torch.cat([*states, _state(hidden, residual)], dim=-1).cpu())

    def _add(self, states: torch.Tensor) -> None:
        """Take a pass apart into runs of positions that follow each other; [tokens, (layers + 1) * width]."""
        positions = self._positions
        starts = [n for n, position in enumerate(positions) if n == 0 or position != positions[n - 1] + 1]
        for begin, end in zip(starts, [*starts[1:], len(positions)], strict=True):
            tokens, part = self._tokens[begin:end], states[begin:end]
            if positions[begin] == 0:
                self._read.append((tokens, [part]))
                continue
            # At most one document of a pass is cut, the last, and the next pass begins with what follows: of those as
            # long as this run's beginning it is the newest.
            for earlier, parts in reversed(self._read):
                if len(earlier) == positions[begin]:
                    earlier.extend(tokens)
                    parts.append(part)
                    break


def _state(hidden: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
    """A tensor of its own: vLLM's norms write into both."""
    return hidden.clone() if residual is None else hidden + residual


def to_array(states: torch.Tensor) -> Array:
    """For the way between processes: bf16 as int16, since NumPy has no such type."""
    return np.asarray((states.view(torch.int16) if states.dtype == torch.bfloat16 else states).numpy())


def from_array(array: Array) -> torch.Tensor:
    """The inverse of `to_array`; the tensor is a copy."""
    states = torch.tensor(array)
    return states.view(torch.bfloat16) if states.dtype == torch.int16 else states
