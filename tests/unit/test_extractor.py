"""States from an engine, without one: what is gathered of its passes, which devices it takes, what memory is left."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raytrain.drafter.extractor import ExtractorError, check_store, gpus_of_engine
from raytrain.drafter.footprint import draft_footprint
from raytrain.drafter.watch import PassWatch, from_array, to_array
from raytrain.footprint import Batch
from raytrain.hardware import Placement, read_hardware
from raytrain.job import DRAFTER, Job
from raytrain.preflight import remedies, weigh
from raytrain.settings import DrafterSettings, StatesEngine, WorkerSettings
from raytrain.shape import shape_of
from tests.llama8b import LLAMA_8B

WIDTH, LAYERS = 4, 3
LLAMA_70B = shape_of(
    {
        **LLAMA_8B,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
    }
)
ENGINE = DrafterSettings(states="engine", tokens_per_batch=8192, max_length=8192)


class Layer(torch.nn.Module):
    """Adds one to the state. Like vLLM's it keeps hidden and residual apart, and adds the two up in place."""

    def forward(self, positions: torch.Tensor, hidden: torch.Tensor, residual: torch.Tensor | None) -> Any:
        residual = hidden if residual is None else residual.add_(hidden)
        return torch.ones_like(hidden), residual


class Norm(torch.nn.Module):
    """The last one."""

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return residual.add_(hidden), residual


class Inner(torch.nn.Module):
    """The layers and the norm, called as vLLM's models call them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = Norm()


class Model(torch.nn.Module):
    """A state is 1000 * token + position and the number of layers before it, in every number of its width."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Inner()

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor) -> None:
        hidden, residual = (1000.0 * input_ids + positions)[:, None].repeat(1, WIDTH), None
        for layer in self.model.layers:
            hidden, residual = layer(positions, hidden, residual)
        self.model.norm(hidden, residual)


def computed(model: Model, *parts: tuple[list[int], int]) -> None:
    """One pass over these parts of documents: their tokens, and the position of the first."""
    model(
        input_ids=torch.tensor([token for tokens, _ in parts for token in tokens]),
        positions=torch.tensor([begin + n for tokens, begin in parts for n in range(len(tokens))]),
    )


def expected(document: list[int], layers: list[int]) -> torch.Tensor:
    base = torch.tensor([1000.0 * token + position for position, token in enumerate(document)])
    return torch.cat([(base + layer)[:, None].repeat(1, WIDTH) for layer in [*layers, LAYERS]], dim=-1)


def test_documents_are_put_together_from_passes_and_chunks() -> None:
    model, layers = Model(), [2, 0, 1]
    watch = PassWatch(model, layers)
    one, two, three, other = [7, 8, 9, 10, 11], [7, 8, 3], [5, 6], [7, 8, 9]
    computed(model, (two, 0), (one[:3], 0))
    computed(model, (one[3:4], 3), (three, 0))
    computed(model, (one[4:], 4), (other, 0))
    states = watch.take([one, two, three, other, three])
    assert torch.equal(states, torch.cat([expected(each, layers) for each in (one, two, three, other, three)]))


def test_a_document_of_which_a_part_is_missing_is_refused() -> None:
    model = Model()
    watch = PassWatch(model, [0])
    computed(model, ([1, 2], 0), ([3, 4, 5], 0))
    computed(model, ([8, 9], 64))  # its beginning came out of a cache
    with pytest.raises(LookupError, match=r"no states of 1 of 2 documents, the first of 4 tokens: is its prefix cache"):
        watch.take([[1, 2], [6, 7, 8, 9]])
    with pytest.raises(LookupError, match="no states of 1 of 1 documents"):
        watch.take([[1, 2]])  # what was seen is forgotten


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_states_travel_bit_by_bit(dtype: torch.dtype) -> None:
    states = torch.randn(5, 8).to(dtype)
    back = from_array(to_array(states))
    assert back.dtype == dtype and torch.equal(back, states)


def job(device: Any, workers: int, replicas: int, tensor_parallel: int) -> Job:
    settings = ENGINE.model_copy(
        update={
            "worker": WorkerSettings(workers=workers),
            "engine": StatesEngine(replicas=replicas, tensor_parallel=tensor_parallel),
        }
    )
    placement = Placement(device=device, threads=1, precision="bf16")
    return Job(DRAFTER, "", Path("work"), Path("student"), Path("log"), settings, placement, (), 1, workers)


def test_engines_stand_on_gpus_where_there_are_some() -> None:
    assert gpus_of_engine(job("cpu", 2, 1, 4), {"CPU": 8.0}) == 0
    assert gpus_of_engine(job("gpu", 2, 1, 4), {"GPU": 6.0}) == 4
    assert gpus_of_engine(job("cpu", 2, 2, 2), {"GPU": 4.0}) == 2
    rule = r"replicas=1 x tensor_parallel=4 need as many GPUs beside the 2 of the workers, and Ray has 4; lower"
    with pytest.raises(ExtractorError, match=rule):
        gpus_of_engine(job("gpu", 2, 1, 4), {"GPU": 4.0})


def test_what_is_on_its_way_is_kept_from_the_disk() -> None:
    width, store = 4 * 8192, {"object_store_memory": 3.0 * 2**30}
    check_store(job("gpu", 2, 1, 4), width, store)  # 2 workers x 3 batches x 8,192 tokens x 64 KiB
    with pytest.raises(ExtractorError, match=r"ahead=2 .*4 workers, 6\.0 GiB, and Ray's object store holds 3\.0 GiB"):
        check_store(job("gpu", 4, 1, 4), width, store)


def test_who_computes_states_decides_and_how_many_at_a_time_does_not() -> None:
    deciding = ENGINE.deciding()
    assert deciding["states"] == "engine"
    assert "engine" not in deciding


def test_no_worker_holds_the_student_of_an_engine() -> None:
    batch, online = Batch(8192, 4000, 4000), ENGINE.model_copy(update={"states": "online"})
    hardware = read_hardware("p5")
    with_student = draft_footprint(LLAMA_70B, online, batch, on_gpu=True)
    without = draft_footprint(LLAMA_70B, ENGINE, batch, on_gpu=True)
    assert with_student.total - without.total == pytest.approx(2 * LLAMA_70B.parameters / 2**30)
    assert without.host == pytest.approx(3 * 8192 * 4 * 8192 * 2 / 2**30)  # two batches ahead and the one waited for
    assert not weigh(LLAMA_70B, online, batch, hardware, on_gpu=True).fits
    offered = [what for what, _ in remedies(LLAMA_70B, online, batch, hardware, on_gpu=True)]
    assert "states=engine, with other GPUs for the student" in offered
    assert weigh(LLAMA_70B, ENGINE, batch, hardware, on_gpu=True).host_need_gib < 10


def test_engines_on_cores_share_the_memory_of_the_workers() -> None:
    batch = Batch(2048, 600, 400)
    two = replace_engine(replicas=2)
    parts = [draft_footprint(LLAMA_70B, settings, batch, on_gpu=False).device for settings in (ENGINE, two)]
    assert parts[1]["engine"] == pytest.approx(2 * parts[0]["engine"])
    assert parts[0]["engine"] > 2 * LLAMA_70B.parameters / 2**30 / ENGINE.worker.workers
    smaller = draft_footprint(replace(LLAMA_70B, counted=10**9), ENGINE, batch, on_gpu=False).device
    assert smaller["stored states"] == parts[0]["stored states"]
    assert smaller["engine"] < parts[0]["engine"]


def replace_engine(**changes: int) -> DrafterSettings:
    return ENGINE.model_copy(update={"engine": StatesEngine(**changes)})
