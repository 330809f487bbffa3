"""The weights of a model folder, read and written one tensor at a time, in safetensors as Hugging Face lays it out.

A folder has either `model.safetensors` or several shards named by `model.safetensors.index.json`. Reading goes through
plain files and not through mapped memory: a page that was mapped and touched counts as resident until the kernel needs
it, so that a mapped model would look (and under a memory limit sometimes be) as large as itself. safetensors' own
writer wants all tensors of a file at once; here the sizes are known beforehand, so the header is written first and the
tensors follow as they come. Invariant: no more is held than one tensor of what the caller computes, and CHUNK bytes of
what is copied. Nothing here imports torch until a tensor is asked for as such.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from agentmill.config import UserError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_NAME = "model-{:05d}-of-{:05d}.safetensors"
SHARD_BYTES = 2 << 30
CHUNK = 16 << 20
ALIGNMENT = 8
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class WeightsError(UserError):
    """Weights that are missing or cannot be used. The message names the file, the reason and the remedy."""


@dataclass(frozen=True)
class Tensor:
    """Where one tensor stands: `dtype` is safetensors' name of its type, `start` its first byte in `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    size: int

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    def chunks(self) -> Iterator[bytes]:
        """Its bytes as they stand, at most CHUNK at a time."""
        with self.file.open("rb") as stream:
            stream.seek(self.start)
            left = self.size
            while left:
                chunk = stream.read(min(CHUNK, left))
                if not chunk:
                    raise WeightsError(f"{self.file} ends inside of {self.name}: it was cut short; copy it again")
                left -= len(chunk)
                yield chunk

    def load(self) -> Any:
        """It as a torch tensor of its own type.

        Raises:
            WeightsError: when its type is none of F64, F32, F16 and BF16: quantised weights are no numbers to add up.
        """
        import torch

        if self.dtype not in FLOATS:
            raise WeightsError(
                f"{self.name} of {self.file} has the type {self.dtype}, and only {', '.join(FLOATS)} can be computed "
                f"with; take the model before it was quantised"
            )
        data = bytearray(self.size)
        with self.file.open("rb") as stream:
            stream.seek(self.start)
            if stream.readinto(data) != self.size:
                raise WeightsError(f"{self.file} ends inside of {self.name}: it was cut short; copy it again")
        dtype = getattr(torch, FLOATS[self.dtype])
        return torch.frombuffer(data, dtype=dtype).reshape(self.shape) if data else torch.empty(self.shape, dtype=dtype)


class Weights:
    """The tensors of a model folder by name; only headers are read. Order: file by file, as they stand in it."""

    def __init__(self, folder: Path) -> None:
        """Read the index and the headers.

        Raises:
            WeightsError: when there are no safetensors weights, a shard is missing or is no safetensors file, or the
                index names a tensor that its shard does not have.
        """
        self.folder = folder
        self.tensors: dict[str, Tensor] = {}
        for file, names in _files(folder).items():
            found = {tensor.name: tensor for tensor in read_header(file)}
            lost = sorted(names - found.keys())
            if lost:
                raise WeightsError(f"{folder / INDEX} says that {lost[0]} is in {file.name}, and it is not; copy both")
            self.tensors |= {name: found[name] for name in found if name in names or not names}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors.values())

    def __len__(self) -> int:
        return len(self.tensors)

    @cached_property
    def parameters(self) -> int:
        """Numbers in all tensors together; tied weights that are stored once count once."""
        return sum(tensor.parameters for tensor in self)

    @cached_property
    def size(self) -> int:
        """Bytes of all tensors together."""
        return sum(tensor.size for tensor in self)


@dataclass(frozen=True)
class Entry:
    """One tensor that is to be written; `chunks` gives its bytes, `size` of them, when its turn has come."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    chunks: Callable[[], Iterable[bytes | memoryview]]

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)


def copied(tensor: Tensor, name: str | None = None) -> Entry:
    """The tensor byte for byte, under another name where one is given."""
    return Entry(name or tensor.name, tensor.dtype, tensor.shape, tensor.size, tensor.chunks)


def zeros_like(tensor: Tensor, name: str) -> Entry:
    """Zeros of the tensor's type and shape. All types of safetensors write zero as zero bytes."""

    def chunks() -> Iterator[bytes]:
        left = tensor.size
        while left:
            size = min(CHUNK, left)
            left -= size
            yield bytes(size)

    return Entry(name, tensor.dtype, tensor.shape, tensor.size, chunks)


def computed(tensor: Tensor, compute: Callable[[], Any]) -> Entry:
    """What `compute` returns, a torch tensor of the same shape, in the type of `tensor` and under its name."""

    def chunks() -> Iterator[memoryview]:
        import torch

        result = compute().to(getattr(torch, FLOATS[tensor.dtype])).contiguous()
        assert tuple(result.shape) == tensor.shape, f"{tensor.name}: {tuple(result.shape)} is not {tensor.shape}"
        yield memoryview(result.reshape(-1).view(torch.uint8).numpy())

    return Entry(tensor.name, tensor.dtype, tensor.shape, tensor.size, chunks)


def write_weights(folder: Path, entries: Sequence[Entry], shard_bytes: int = SHARD_BYTES) -> None:
    """Write the entries, in this order, into shards of at most `shard_bytes` (or one tensor) each, and their index.

    What fits in one shard becomes `model.safetensors` without an index. `folder` is there already; a reader must not
    take it for finished before this returns.
    """
    shards = _cut(entries, shard_bytes)
    if len(shards) == 1:
        _write_file(folder / WEIGHTS, shards[0])
        return
    placed: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = SHARD_NAME.format(number, len(shards))
        _write_file(folder / name, shard)
        placed |= {entry.name: name for entry in shard}
    total = {"total_parameters": sum(e.parameters for e in entries), "total_size": sum(e.size for e in entries)}
    text = json.dumps({"metadata": total, "weight_map": dict(sorted(placed.items()))}, indent=2)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def read_header(file: Path) -> list[Tensor]:
    """The tensors of one safetensors file, in the order of their bytes.

    Raises:
        WeightsError: when the file is missing, is no safetensors file, or is shorter than its header says.
    """
    if not file.is_file():
        raise WeightsError(f"{file} is missing, and the model's index names it; copy the model again")
    with file.open("rb") as stream:
        length, total = int.from_bytes(stream.read(8), "little"), file.stat().st_size
        try:
            header = json.loads(stream.read(length)) if 0 < length <= total - 8 else None
        except ValueError:
            header = None
    if not isinstance(header, dict):
        raise WeightsError(f"{file} is no safetensors file: its header cannot be read; copy the model again")
    header.pop("__metadata__", None)
    tensors = []
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        start = 8 + length + begin
        tensors.append(Tensor(name, entry["dtype"], tuple(entry["shape"]), file, start, end - begin))
    tensors.sort(key=lambda tensor: tensor.start)
    if tensors and tensors[-1].start + tensors[-1].size > total:
        raise WeightsError(f"{file} ends inside of {tensors[-1].name}: it was cut short; copy it again")
    return tensors


def _files(folder: Path) -> dict[Path, set[str]]:
    """The weight files of a folder and the tensors that the index places in each; none named means all."""
    index = folder / INDEX
    if (folder / WEIGHTS).is_file():
        return {folder / WEIGHTS: set()}
    if not index.is_file():
        raise WeightsError(
            f"{folder} has neither {WEIGHTS} nor {INDEX}; run the stages before this one first, or save the model as "
            f"safetensors"
        )
    files: dict[Path, set[str]] = {}
    for name, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
        files.setdefault(folder / file, set()).add(name)
    return dict(sorted(files.items()))


def _cut(entries: Sequence[Entry], shard_bytes: int) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    filled = 0
    for entry in entries:
        if shards[-1] and filled + entry.size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(entry)
        filled += entry.size
    return shards


def _write_file(file: Path, entries: Sequence[Entry]) -> None:
    """One safetensors file. Wider types come first, so that every tensor begins at a multiple of its type's width."""
    ordered = sorted(entries, key=lambda entry: -BITS.get(entry.dtype, 0))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in ordered:
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [end, end + entry.size],
        }
        end += entry.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for entry in ordered:
            _write(stream, entry)


def _write(stream: IO[bytes], entry: Entry) -> None:
    written = 0
    for chunk in entry.chunks():
        stream.write(chunk)
        written += len(chunk)
    assert written == entry.size, f"{entry.name}: {written} bytes came and {entry.size} were announced"
