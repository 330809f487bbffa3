"""The command `agentmill`. Parse first, import the heavy code after: `--help` answers at once.

Exit codes: 0 done, 1 a check failed (doctor), 2 an error that the user can put right (a message, never a traceback),
130 stopped by Ctrl-C or SIGTERM.
"""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from agentmill.errors import UserError

if TYPE_CHECKING:
    from agentmill.runs import Run

app = typer.Typer(
    name="agentmill",
    help="Turn a large-model multi-agent system into a small, fast one, and serve it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RUNS = Path("runs")
ConfigArg = Annotated[Path, typer.Argument(metavar="CONFIG", help="a YAML file such as configs/local.yaml")]
RunArg = Annotated[str, typer.Argument(metavar="RUN", help="a run directory, or the name of one in --runs")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change one value, for example data.public=FILE")
]
RunsOption = Annotated[Path, typer.Option("--runs", metavar="DIR", help="the folder that holds the runs")]


@app.command("run")
def run_command(
    config: ConfigArg,
    assignments: SetOption = None,
    name: Annotated[str | None, typer.Option(help="name of the run; its directory is RUNS/NAME")] = None,
    first: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="do this stage and later ones again")
    ] = None,
    last: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="stop after this stage")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check and show what would be done, do nothing")] = False,
    runs: RunsOption = RUNS,
) -> None:
    """Do a run: simulate, refine, corpora, base, sft, evaluate, report. What is done already is skipped."""
    from agentmill.runs import Run, command_line
    from cluster.config import read_config
    from cluster.runner import execute
    from cluster.status import print_plan, print_result

    settings = read_config(config, assignments or [], name)
    if dry_run:
        print_plan(runs / settings.name, settings, first, last)
        return
    run = Run.create(runs / settings.name, settings.resolved(), command_line())
    execute(run, settings, first=first, last=last)
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
    model: Annotated[Path | None, typer.Option(help="a model folder in place of the run's models/sft")] = None,
    config: Annotated[Path | None, typer.Option(help="a YAML file in place of the run's configuration")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one")] = None,
    assignments: SetOption = None,
    runs: RunsOption = RUNS,
) -> None:
    """Serve a run's student behind an OpenAI-compatible gateway, in the foreground, until Ctrl-C."""
    from cluster.serving import serve_forever, settings_for

    extra = [*(assignments or []), *([f"serve.port={port}"] if port is not None else [])]
    settings, folder = settings_for(None if config else find_run(run, runs), config, extra, model)
    serve_forever(settings, folder)


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
def doctor() -> None:
    """Look at this machine: what it has, which versions, what is missing and how to put it right."""
    from cluster.doctor import examine, print_findings

    findings = examine()
    print_findings(findings)
    if any(finding.verdict == "missing" for finding in findings):
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


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def base(context: typer.Context) -> None:
    """Make the base model that ships with the project again (hours; options go to raytrain.base.make)."""
    from raytrain.base.make import main as make

    make(list(context.args))


def find_run(name: str, runs: Path) -> "Run":
    """The run that `name` means: a directory, or a name in `runs`."""
    from agentmill.runs import Run

    path = Path(name)
    if (path / "run.json").is_file() or len(path.parts) > 1:
        return Run.open(path)
    return Run.open(runs / name)


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
