"""Arguments and options that several commands have, and how a run's name becomes the run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from agentmill.runs import Run

RUNS = Path("runs")
ConfigArg = Annotated[Path, typer.Argument(metavar="CONFIG", help="a YAML file such as configs/local.yaml")]
RunArg = Annotated[str, typer.Argument(metavar="RUN", help="a run directory, or the name of one in --runs")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change one value, for example data.public=FILE")
]
RunsOption = Annotated[Path, typer.Option("--runs", metavar="DIR", help="the folder that holds the runs")]


def find_run(name: str, runs: Path) -> "Run":
    """The run that `name` means: a directory, or a name in `runs`."""
    from agentmill.runs import Run

    path = Path(name)
    if (path / "run.json").is_file() or len(path.parts) > 1:
        return Run.open(path)
    return Run.open(runs / name)
