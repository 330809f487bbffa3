"""The command `agentmill`. Parse first, import the heavy code after: `--help` answers at once.

Exit codes: 0 done, 1 a check failed (doctor, domain check, redteam, bench chaos, bench resume), 2 an error that the
user can put right (a message, never a traceback), 130 stopped by Ctrl-C or SIGTERM.
"""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from agentmill.errors import UserError
from cluster.bench_cli import bench_app
from cluster.options import RUNS, ConfigArg, RunArg, RunsOption, SetOption, find_run

if TYPE_CHECKING:
    pass

app = typer.Typer(
    name="agentmill",
    help="Turn a large-model multi-agent system into a small, fast one, and serve it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
gate_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(gate_app, name="gate", help="The complexity gate: when the model evaluator is asked about a plan.")

domain_app = typer.Typer(
    help="Make and check domain packs: the tools, rules, world and customers of a business of your own.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(domain_app, name="domain")


merge_app = typer.Typer(
    help="Merging a stage's model with the one that it started from.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(merge_app, name="merge")

app.add_typer(bench_app, name="bench")
tune_app = typer.Typer(
    help="Search the settings that are best for a run on this machine.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(tune_app, name="tune")

pairs_app = typer.Typer(
    help="Pairs for preference tuning that people make: what an agent said, and what it should have said.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(pairs_app, name="pairs")


@app.command("run")
def run_command(
    config: ConfigArg,
    assignments: SetOption = None,
    name: Annotated[str | None, typer.Option(help="name of the run; its directory is RUNS/NAME")] = None,
    first: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="do this stage and later ones again")
    ] = None,
    last: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="stop after this stage")] = None,
    fresh: Annotated[
        list[str] | None,
        typer.Option("--fresh", metavar="STAGE", help="set aside what this stage has done so far, and begin it anew"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check and show what would be done, do nothing")] = False,
    runs: RunsOption = RUNS,
) -> None:
    """Do a run: simulate, gate, refine, corpora, base, expand, cpt, sft, dpo, responses, drafter, quantize, evaluate,
    report.

    What is done already is skipped; expand, cpt, dpo, drafter and quantize are left out where the configuration says
    null.
    """
    from agentmill.runs import Run, command_line
    from cluster.config import check_worlds, read_config
    from cluster.runner import execute
    from cluster.status import print_plan, print_result
    from raytrain.tracking import check_trackers

    settings = read_config(config, assignments or [], name)
    check_worlds(settings)
    check_trackers(settings.tracking)
    if dry_run:
        print_plan(runs / settings.name, settings, first, last)
        return
    run = Run.create(runs / settings.name, settings.resolved(), command_line())
    execute(run, settings, first=first, last=last, fresh=fresh or [])
    print_result(run)


@app.command()
def status(run: Annotated[str, typer.Argument(metavar="[RUN]")] = "", runs: RunsOption = RUNS) -> None:
    """Show the runs, or the stages of one run: done, stopped half-way, out of date."""
    from cluster.status import print_runs, print_stages

    if run:
        print_stages(find_run(run, runs))
    else:
        print_runs(runs)


@app.command()
def serve(
    run: RunArg = "local",
    stage: Annotated[
        str | None, typer.Option(metavar="NAME", help="base, expanded, cpt, sft or dpo in place of the run's newest")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="a model folder in place of the run's own")] = None,
    config: Annotated[Path | None, typer.Option(help="a YAML file in place of the run's configuration")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one")] = None,
    tuned: Annotated[bool, typer.Option("--tuned", help="as `agentmill tune serving` found best")] = False,
    assignments: SetOption = None,
    runs: RunsOption = RUNS,
) -> None:
    """Serve a run's student behind an OpenAI-compatible gateway, in the foreground, until Ctrl-C."""
    from agentmill.config import ConfigError
    from cluster.serving import serve_forever, settings_for, tuned_for

    extra = [*(assignments or []), *([f"serve.port={port}"] if port is not None else [])]
    folder: Path | None
    if tuned:
        if stage or model or config:
            raise ConfigError("--tuned says which model is served and how; leave out --stage, --model and --config")
        settings, folder = tuned_for(find_run(run, runs), extra)
    else:
        settings, folder = settings_for(None if config else find_run(run, runs), config, extra, model, stage)
    serve_forever(settings, folder)


@tune_app.command("serving")
def tune_serving(
    run: RunArg = "local",
    in_flight: Annotated[str, typer.Option(metavar="N,N,...", help="calls in flight that are served for")] = "1,6,16",
    target_s: Annotated[
        float | None, typer.Option("--target", min=0.0, help="seconds of a call (default: twice the P90 of BF16 alone)")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="how many configurations are tried at most")] = 14,
    calls: Annotated[int, typer.Option(min=1, help="recorded calls of a replay, more where many are in flight")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="replays of each; the median counts")] = 3,
    assignments: SetOption = None,
    runs: RunsOption = RUNS,
) -> None:
    """Search 8 bits, compiling, draft length, batches and prefix cache for the most answers within a latency target."""
    from cluster.serving_benches import numbers
    from cluster.tuning import tune_serving as tune

    tune(
        find_run(run, runs),
        assignments or [],
        in_flight=numbers("--in-flight", in_flight),
        target_s=target_s,
        trials=trials,
        calls=calls,
        repeats=repeats,
    )


@app.command()
def chat(
    url: Annotated[str, typer.Option(help="a system served by `agentmill serve`")] = "http://127.0.0.1:8000",
    quiet: Annotated[bool, typer.Option("--quiet", help="only the replies, not what each agent did")] = False,
) -> None:
    """Talk to a served system in the terminal and see what each agent did."""
    from cluster.chat import talk

    talk(url, show_agents=not quiet)


@app.command()
def report(run: RunArg = "local", runs: RunsOption = RUNS) -> None:
    """Write the report of a run again, from what is recorded in it."""
    from cluster import report as page
    from cluster.config import config_of

    found = find_run(run, runs)
    page.run(found, config_of(found).report)
    print(found.path("report", "index.html"))


@app.command()
def view(
    run: RunArg = "local",
    corpus: Annotated[str, typer.Argument(metavar="[CORPUS]", help="sft, cpt, dpo, drafter or calibration")] = "sft",
    agent: Annotated[str | None, typer.Option(help="only rows of this agent")] = None,
    split: Annotated[str, typer.Option(help="train, heldout, ...")] = "train",
    count: Annotated[int, typer.Option("--n", min=1, help="how many rows")] = 3,
    runs: RunsOption = RUNS,
) -> None:
    """Show rows of a corpus in colour: what is trained on, and what is masked."""
    from cluster.view import print_rows

    print_rows(find_run(run, runs), corpus, split, agent, count)


@pairs_app.command("new")
def pairs_new(
    run: RunArg,
    calls: Annotated[list[str] | None, typer.Option("--call", help="the id of a recorded call; again for more")] = None,
    evaluation: Annotated[
        str | None, typer.Option(metavar="STAGE", help="answers that an evaluation found wrong, for example sft")
    ] = None,
    count: Annotated[int, typer.Option("--n", min=1, help="at most so many of the evaluation")] = 5,
    out: Annotated[Path, typer.Option(metavar="FILE", help="YAML or JSONL; pairs are added to its end")] = Path(
        "pairs.yaml"
    ),
    runs: RunsOption = RUNS,
) -> None:
    """Start pairs from recorded calls: prompt and rejected are filled in, a person writes chosen."""
    from cluster.pairs import start_pairs

    for line in start_pairs(find_run(run, runs), calls or [], evaluation, count, out):
        print(line)


@pairs_app.command("check")
def pairs_check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a file of pairs, YAML or JSONL")],
    domain: Annotated[str, typer.Option(help="the domain pack that the pairs are for")] = "automotive",
) -> None:
    """Check pairs: filled in, really different, and right: plans keep the rules and run, replies are grounded."""
    from agentmill.domains.base import load_domain
    from simulation.corpora.pairs import check_pairs

    pairs = check_pairs(file, load_domain(domain))
    print(f"{file}: {len(pairs)} pairs are right; use them with --set corpora.dpo.hand={file}")


@merge_app.command("sweep")
def merge_sweep(
    run: RunArg = "local",
    stage: Annotated[
        str | None, typer.Option(metavar="NAME", help="cpt, sft or dpo in place of the last one that was trained")
    ] = None,
    method: Annotated[str, typer.Option(help="linear, slerp or ties")] = "linear",
    weights: Annotated[
        str, typer.Option(metavar="W,W,...", help="how far from the start (0) to the trained model (1)")
    ] = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1",
    density: Annotated[float, typer.Option(help="the share of changes that ties keeps of each tensor")] = 0.2,
    max_cost: Annotated[
        float, typer.Option(help="by which share the general loss may be above the start's, for the pick")
    ] = 0.02,
    pick: Annotated[float | None, typer.Option(metavar="W", help="take this weight, whatever was measured")] = None,
    runs: RunsOption = RUNS,
) -> None:
    """Try merge weights: domain and general held-out loss of each, their Pareto front, and a pick."""
    from cluster.merging import sweep_run

    for line in sweep_run(find_run(run, runs), stage, method, weights, density, max_cost, pick):
        print(line)


@app.command("clip-rate")
def clip_rate(
    run: RunArg = "local",
    model: Annotated[str | None, typer.Option("--stage", metavar="NAME", help="a model in place of the newest")] = None,
    lengths: Annotated[
        str, typer.Option(metavar="N,N,...", help="tokens of a calibration sequence")
    ] = "32,64,128,256,512,1024,2048",
    sequences: Annotated[int, typer.Option(min=1, help="calibration sequences of each length")] = 32,
    rows: Annotated[int, typer.Option(min=1, help="held-out calls that are looked at")] = 400,
    runs: RunsOption = RUNS,
) -> None:
    """Share of activations outside the calibrated range, by calibration set and length (the paper's figure 4)."""
    from cluster.clipping import clip_run

    for line in clip_run(find_run(run, runs), model, lengths, sequences, rows):
        print(line)


@gate_app.command("calibrate")
def gate_calibrate(
    run: RunArg = "local",
    max_miss_rate: Annotated[
        float | None, typer.Option(help="share of the plans that may be skipped although the model would reject them")
    ] = None,
    confidence: Annotated[float | None, typer.Option(help="with which probability that bound holds")] = None,
    measure: Annotated[str | None, typer.Option(help="volume, difficulty or effort")] = None,
    runs: RunsOption = RUNS,
) -> None:
    """Choose the complexity above which the model evaluator is asked, from the plans that a run recorded."""
    from cluster.config import config_of
    from cluster.gate import calibrate_again, print_calibration

    found = find_run(run, runs)
    given = {"max_miss_rate": max_miss_rate, "confidence": confidence, "measure": measure}
    config = config_of(found, [f"gate.{key}={value}" for key, value in given.items() if value is not None])
    print_calibration(calibrate_again(found, config))


@app.command()
def doctor() -> None:
    """Look at this machine: what it has, which versions, what is missing and how to put it right."""
    from cluster.doctor import examine, print_findings

    findings = examine()
    print_findings(findings)
    if any(finding.verdict == "missing" for finding in findings):
        raise typer.Exit(1)


@app.command()
def redteam(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="a YAML file; defaults without one")] = None,
    domain: Annotated[str | None, typer.Option(help="the domain pack whose attacks are played")] = None,
    url: Annotated[str | None, typer.Option(help="attack a served system (with serve.sessions_api=true)")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only so many attacks, from all over the corpus")] = None,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="record in this run in place of runs/bench")] = None,
    assignments: SetOption = None,
    runs: RunsOption = RUNS,
) -> None:
    """Play a corpus of attacks on the system: how many have an effect, by kind. Exit 1 when one has.

    The expert answers for the agents unless redteam.model names another model.
    """
    from cluster.redteam import attack, print_attempts

    done = attack(config, domain, url, limit, assignments or [], find_run(run, runs) if run else None)
    print_attempts(done)
    if any(one.effects for one in done):
        raise typer.Exit(1)


@app.command()
def figures(
    run: RunArg,
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="a figure, or the beginning of dotted names")] = "",
    runs: RunsOption = RUNS,
) -> None:
    """Print the recorded figures of a run as JSON."""
    import json

    from agentmill.config import nearest
    from agentmill.runs import RunError

    found = find_run(run, runs)
    chosen = found.figures(name or None)
    if name and not chosen:
        guess = nearest(name, found.figures())
        meant = f"did you mean {guess}?" if guess else f"`agentmill figures {run}` lists those that are"
        raise RunError(f"{found.root} has no figure {name}; {meant}")
    print(json.dumps({key: figure.model_dump(mode="json") for key, figure in chosen.items()}, indent=2))


@app.command()
def compare(
    run: RunArg = "local",
    markdown: Annotated[bool, typer.Option("--markdown", help="as a Markdown table")] = False,
    runs: RunsOption = RUNS,
) -> None:
    """Show the evaluated models of a run side by side, and where they differ by more than chance."""
    from cluster.comparison import print_models

    print_models(find_run(run, runs), as_markdown=markdown)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def base(context: typer.Context) -> None:
    """Make the base model that ships with the project again (hours; options go to raytrain.base.make)."""
    from raytrain.base.make import main as make

    make(list(context.args))


@domain_app.command("new")
def domain_new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="the name of the package, such as bike_shop")],
    into: Annotated[Path, typer.Option(metavar="DIR", help="the folder that the pack is written into")] = Path("."),
) -> None:
    """Write a small domain pack that works: tools, rules, a world, customers, an expert, tests, a configuration."""
    from cluster.skeleton import new_pack, next_steps

    for path in new_pack(name, into):
        print(f"wrote {path}")
    print("go on with:", *next_steps(name, into), sep="\n  ")


@domain_app.command("check")
def domain_check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a pack that ships, is installed, or lies here")],
    conversations: Annotated[int, typer.Option(min=1, help="how many the pack's expert plays, at least")] = 40,
) -> None:
    """Tell what is missing or inconsistent in a domain pack; its expert plays some conversations."""
    from cluster.domains import check_pack, print_findings

    findings = check_pack(name, conversations)
    print_findings(findings)
    if any(finding.error for finding in findings):
        raise typer.Exit(1)


def _stop(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command; a user's error becomes a message."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)  # a shell that starts us in the background has it ignored
    try:
        app(standalone_mode=True)
    except UserError as error:
        for line in str(error).splitlines():
            print(f"agentmill: {line}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("agentmill: stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
