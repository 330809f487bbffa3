"""The commands under `agentmill bench`: measuring the project's own parts, each beside what it is compared with."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from cluster.options import RUNS, RunArg, RunsOption, SetOption, find_run

bench_app = typer.Typer(
    help="Measure the project's own parts; figures go to runs/bench, or to the run that AGENTMILL_BENCH_RUN names.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

FolderOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="where the runs are made and stay (default: a temporary folder)")
]

BenchConfigArg = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG]", help="a YAML file with the stages' settings (default: defaults)")
]
SourceOption = Annotated[
    str | None, typer.Option("--run", metavar="RUN", help="a run whose corpora are trained on (default: made here)")
]
StagesOption = Annotated[
    list[str] | None, typer.Option("--stage", help="cpt, sft or dpo; again for another (default: all)")
]
ModelOption = Annotated[
    str, typer.Option(help="shipped, a shape with random weights (tiny, llama-8b), or a model folder")
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "gpu"] | None, typer.Option(help="where workers compute, in place of the settings")
]


@bench_app.command("agents")
def bench_agents(
    domains: Annotated[
        list[str] | None, typer.Option("--domain", help="a domain pack; again for another (default: those that ship)")
    ] = None,
    scenarios: Annotated[int, typer.Option(min=1, help="how many scenarios of each domain are played")] = 500,
) -> None:
    """Success of the expert, watchfulness of the Evaluator, turns per second and core, and the cost of a world."""
    from benchmarks.report import bench_agents as bench
    from benchmarks.world_copy import packs

    run = bench(domains or packs(), scenarios)
    print(f"agentmill figures {run.root} agents")


@bench_app.command("large")
def bench_large(
    conversations: Annotated[int, typer.Option(min=2, help="conversations of the large run")] = 7200,
    small: Annotated[int, typer.Option(min=2, help="conversations of the small one beside it")] = 700,
    mix: Annotated[str, typer.Option(help="which scenarios of the automotive domain")] = "coverage",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    folder: FolderOption = None,
) -> None:
    """Simulate, judge and build corpora of many conversations: time, memory of driver and workers, bytes on disk."""
    from benchmarks.large import bench_large as bench

    with _folder(folder) as place:
        run = bench(place, conversations, small, mix, seed)
    print(f"agentmill figures {run.root} simulate")


@bench_app.command("chaos")
def bench_chaos(
    conversations: Annotated[int, typer.Option(min=20, help="conversations of each of the two runs")] = 400,
    kills: Annotated[int, typer.Option(min=1, help="how often a worker or the driver is killed")] = 10,
    mix: Annotated[str, typer.Option(help="which scenarios of the automotive domain")] = "coverage",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    folder: FolderOption = None,
) -> None:
    """Kill workers and the driver of a simulation at random moments; the result must be that of one left alone."""
    from benchmarks.chaos import bench_chaos as bench

    with _folder(folder) as place:
        run = bench(place, conversations, kills, seed, mix)
    print(f"agentmill figures {run.root} simulate.chaos")
    if run.figures()["simulate.chaos.differences"].value:
        raise typer.Exit(1)


@bench_app.command("expand")
def bench_expand(
    hidden: Annotated[int, typer.Option(min=1024, help="width of the model; 4096 with 32 blocks is 8B")] = 2048,
    blocks: Annotated[int, typer.Option(min=1, help="blocks before the expansion")] = 8,
    every: Annotated[int, typer.Option(min=1, help="one new block after so many")] = 4,
    folder: FolderOption = None,
) -> None:
    """Expand and merge a sharded model of random weights: memory, seconds and bytes on disk."""
    from benchmarks.weights import bench_expand as bench
    from cluster.session import ray_session

    with _folder(folder) as place, ray_session():
        run = bench(place, hidden, blocks, every)
    print(f"agentmill figures {run.root} train.expand")


@bench_app.command("base")
def bench_base(
    corpora: RunArg,
    bases: Annotated[
        list[Path], typer.Argument(metavar="BASE...", help="model folders; a folder's name is its base's")
    ],
    steps: Annotated[int, typer.Option(min=1, help="steps of fine-tuning")] = 150,
    runs: RunsOption = RUNS,
    folder: FolderOption = None,
) -> None:
    """Fine-tune several bases for as long on a run's corpora: the loss of each agent before and after."""
    from benchmarks.bases import bench_bases as bench
    from cluster.session import ray_session
    from raytrain.settings import SftSettings

    found = find_run(corpora, runs)
    with _folder(folder) as place, ray_session():
        run = bench(found, {base.name: base for base in bases}, SftSettings(max_steps=steps), place, seed=0)
    print(f"agentmill figures {run.root} bench.base")


@bench_app.command("fidelity")
def bench_fidelity(
    domain: Annotated[str, typer.Option(help="a domain pack with an expert")] = "automotive",
    mix: Annotated[str, typer.Option(help="the choice of scenarios")] = "all",
    conversations: Annotated[int, typer.Option(min=8, help="with good customers, and as many with faulty ones")] = 400,
) -> None:
    """How well the user simulator's own errors are found, measured on errors that are made on purpose."""
    from agentmill.domains.base import load_domain
    from agentmill.runs import bench_run
    from benchmarks.fidelity import detect, record

    found = detect(load_domain(domain), conversations, mix)
    run = bench_run()
    record(run, found)
    print(f"agentmill figures {run.root} simulate.fidelity")


@bench_app.command("simulation")
def bench_simulation(
    domain: Annotated[str, typer.Option(help="the domain pack whose expert records the conversations")] = "automotive",
    conversations: Annotated[int, typer.Option(min=16, help="how many different ones are recorded")] = 2400,
    repeats: Annotated[int, typer.Option(min=1, help="how often everything is measured; the median counts")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="length of one measurement, after a warm-up of half")] = 10.0,
) -> None:
    """Calls per second against a local endpoint of 50 ms: ours on one core, our client alone, and a thread pool."""
    from benchmarks.pace import bench_simulation as bench

    run = bench(domain, conversations, repeats, seconds)
    print(f"agentmill figures {run.root} simulate.endpoint")


@bench_app.command("memory")
def bench_memory(
    names: Annotated[list[str] | None, typer.Option("--case", help="a case; again for more (default: all)")] = None,
) -> None:
    """What the preflight computes of a training's memory, beside what small trainings really take on the CPU."""
    from benchmarks.footprint import bench_memory as bench

    run = bench(names or [])
    print(f"agentmill figures {run.root} memory")


@bench_app.command("training")
def bench_training(
    config: BenchConfigArg = None,
    source: SourceOption = None,
    stages: StagesOption = None,
    model: ModelOption = "shipped",
    steps: Annotated[int, typer.Option(min=4, help="steps of each training")] = 40,
    warm: Annotated[int, typer.Option(min=1, help="of these, the first that are not counted")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="turns of each side; the median counts")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="a look: one turn of 12 steps")] = False,
    device: DeviceOption = None,
    results: Annotated[
        Path | None, typer.Option(metavar="DIR", help="write machine, versions and figures there too, as JSON")
    ] = None,
    folder: FolderOption = None,
    assignments: SetOption = None,
    runs: RunsOption = RUNS,
) -> None:
    """Tokens per second of the stages that train, beside plain TRL on the same rows; with packing too."""
    from benchmarks.training import Sizes
    from cluster.config import read_config
    from cluster.training_benches import DEFAULTS, training

    sizes = Sizes(12, 3, 1) if quick else Sizes(steps, warm, repeats)
    found = find_run(source, runs) if source else None
    with _folder(folder) as place:
        settings = read_config(config, assignments or [])
        run = training(place, found, settings, stages or list(DEFAULTS), device, sizes, model, results)
    print(f"agentmill figures {run.root} bench.training")


@bench_app.command("resume")
def bench_resume(
    config: BenchConfigArg = None,
    source: SourceOption = None,
    stages: StagesOption = None,
    model: ModelOption = "shipped",
    steps: Annotated[int, typer.Option(min=4, help="steps of each training")] = 60,
    kills: Annotated[int, typer.Option(min=1, help="kills of each, workers and driver mixed")] = 3,
    seed: Annotated[int, typer.Option(help="decides when is killed")] = 7,
    device: DeviceOption = None,
    folder: FolderOption = None,
    assignments: SetOption = None,
    runs: RunsOption = RUNS,
) -> None:
    """Kill stages at random steps and compare every loss with the same left alone; exit code 1 over 1e-4."""
    from cluster.config import read_config
    from cluster.training_benches import DEFAULTS, resume

    found = find_run(source, runs) if source else None
    with _folder(folder) as place:
        chosen, settings = stages or list(DEFAULTS), read_config(config, assignments or [])
        run, same = resume(place, found, settings, chosen, device, model=model, steps=steps, kills=kills, seed=seed)
    print(f"agentmill figures {run.root} train")
    if not same:
        raise typer.Exit(1)


@bench_app.command("adaptation")
def bench_adaptation(
    config: BenchConfigArg = None,
    steps: Annotated[int, typer.Option(min=1, help="steps of the two trainings")] = 400,
    search_steps: Annotated[
        int, typer.Option(min=0, help="steps of those that choose a learning rate; 0 takes the middle one")
    ] = 40,
    conversations: Annotated[int, typer.Option(min=20, help="conversations whose calls are trained on")] = 700,
    tests: Annotated[int, typer.Option(min=1, help="calls of each agent that are asked under each condition")] = 120,
    quick: Annotated[bool, typer.Option("--quick", help="a look: 12 steps, one learning rate, few calls")] = False,
    device: DeviceOption = None,
    folder: FolderOption = None,
    assignments: SetOption = None,
) -> None:
    """LoRA against training all weights, asked under other system prompts and with other tools than in training."""
    from benchmarks.adaptation import QUICK, Extent
    from cluster.config import read_config
    from cluster.training_benches import adaptation

    extent = QUICK if quick else Extent(conversations, per_agent=tests, steps=steps, search_steps=search_steps)
    with _folder(folder) as place:
        run = adaptation(place, read_config(config, assignments or []), device, extent)
    print(f"agentmill figures {run.root} bench.adaptation")


@bench_app.command("drafter")
def bench_drafter(
    source: Annotated[str, typer.Argument(metavar="RUN", help="a run whose student has answered (stage responses)")],
    epochs: Annotated[int, typer.Option(min=1, help="passes of each training over its own answers")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="of all three trainings")] = 1,
    device: DeviceOption = None,
    folder: FolderOption = None,
    assignments: SetOption = None,
    runs: RunsOption = RUNS,
) -> None:
    """Drafters for one student from external, synthetic and combined data: the mean generated length of each."""
    from cluster.training_benches import drafters

    with _folder(folder) as place:
        run = drafters(place, find_run(source, runs), assignments or [], device, epochs, seed)
    print(f"agentmill figures {run.root} drafter")


@bench_app.command("trees")
def bench_trees(
    source: Annotated[str, typer.Argument(metavar="RUN", help="a run with a drafter")],
    answers: Annotated[int, typer.Option(min=1, help="held-out answers that are drafted, drawn at random")] = 200,
    depth: Annotated[int, typer.Option(min=1, help="tokens of a path, and passes of the drafter")] = 6,
    top_k: Annotated[int, typer.Option(min=1, help="nodes expanded at each depth, and children of each")] = 10,
    tokens: Annotated[int, typer.Option(min=1, help="drafted tokens that the student verifies")] = 60,
    runs: RunsOption = RUNS,
) -> None:
    """EAGLE-2's draft trees beside greedy chains: the mean generated length of each, without an engine or Ray."""
    from cluster.training_benches import trees

    run = trees(find_run(source, runs), answers, depth=depth, top_k=top_k, tokens=tokens)
    print(f"agentmill figures {run.root} drafter")


@bench_app.command("serving")
def bench_serving(
    source: Annotated[str, typer.Argument(metavar="RUN", help="a run with a finished model")],
    scale: Annotated[
        Literal["demo", "inflated"], typer.Option(help="the run's models as they are, or inflated")
    ] = "demo",
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help="bf16, quantized, ...; again for another (default: all)")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--with", metavar="NAME:VARIANT,FIELD=VALUE,...", help="a variant with other settings of its engine"
        ),
    ] = None,
    concurrency: Annotated[
        str | None, typer.Option(help="calls in flight (default: 1,2,4,6,8,16,32,64; inflated: 1,6,16,32)")
    ] = None,
    conversing: Annotated[str, typer.Option(help="conversations in flight, none where empty")] = "1,6",
    calls: Annotated[int, typer.Option(min=1, help="calls of a replay, more where many are in flight")] = 48,
    conversations: Annotated[int, typer.Option(min=1, help="conversations of a replay")] = 12,
    repeats: Annotated[int, typer.Option(min=1, help="replays of each; the median counts")] = 3,
    target_s: Annotated[
        float | None, typer.Option("--target", min=0.0, help="seconds of a call for goodput (default: 2 P90 of bf16)")
    ] = None,
    most_teacher: Annotated[int, typer.Option(min=1, help="calls in flight to which the teacher is measured")] = 6,
    quick: Annotated[bool, typer.Option("--quick", help="a look: one replay of 12 calls at 1 and 6")] = False,
    folder: FolderOption = None,
    assignments: SetOption = None,
    runs: RunsOption = RUNS,
) -> None:
    """Recorded agent calls and conversations replayed to engine configurations: the paper's tables and figure 6."""
    from benchmarks.serving import Extent
    from cluster.serving_benches import Asked, numbers
    from cluster.serving_benches import bench_serving as bench

    counts = numbers("--concurrency", concurrency or ("1,6,16,32" if scale == "inflated" else "1,2,4,6,8,16,32,64"))
    extent = Extent(counts, numbers("--conversing", conversing), calls, rounds=2, repeats=repeats)
    if quick:
        extent = Extent((1, 6), (), calls=12, rounds=1, repeats=1)
    asked = Asked(variants or [], also or [], extent, conversations, target_s, most_teacher)
    with _folder(folder) as place:
        run = bench(find_run(source, runs), assignments or [], scale, asked, place)
    print(f"agentmill figures {run.root} bench.serving")


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    """The folder that was asked for, or a temporary one that goes away."""
    import tempfile

    if given is not None:
        yield given.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="agentmill-") as name:
        yield Path(name)
