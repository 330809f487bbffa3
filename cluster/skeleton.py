"""`agentmill domain new NAME`: a small domain pack that works, to be replaced piece by piece.

In go a name and a folder, out come NAME/, a Python package, and NAME.yaml, a configuration that runs it. The package
appears whole or not at all, and nothing that is there already is touched.
"""

import keyword
import re
import shlex
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from agentmill.config import ConfigError
from agentmill.domains.packs import known_packs
from agentmill.runs import atomic_dir, atomic_write_text

TEMPLATES = files("cluster") / "templates" / "domain"
CONFIG = "config.yaml.j2"
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def new_pack(name: str, into: Path) -> list[Path]:
    """Write the pack and its configuration into the folder `into`; returns what was written.

    Raises:
        ConfigError: when the name is none for a package or taken, or something of that name is there already.
    """
    _require_name(name)
    package, config = into / name, into / f"{name}.yaml"
    for path in (package, config):
        if path.exists():
            raise ConfigError(f"{path} is there already and is not touched; take another NAME or another --into")
    into.mkdir(parents=True, exist_ok=True)
    texts = rendered(name)
    with atomic_dir(package) as part:
        for file, text in texts.items():
            if file != CONFIG.removesuffix(".j2"):
                (part / file).write_text(text, encoding="utf-8")
    atomic_write_text(config, texts[CONFIG.removesuffix(".j2")])
    return [package, config]


def rendered(name: str) -> dict[str, str]:
    """The files of a new pack by name, the configuration among them."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    title = name.replace("_", " ").title()
    return {
        template.name.removesuffix(".j2"): environment.from_string(template.read_text(encoding="utf-8")).render(
            name=name, title=title
        )
        for template in sorted(TEMPLATES.iterdir(), key=lambda template: template.name)
        if template.name.endswith(".j2")
    }


def next_steps(name: str, into: Path) -> list[str]:
    """The commands to go on with, in order."""
    move = [] if into.resolve() == Path.cwd() else [f"cd {shlex.quote(str(into))}"]
    return [
        *move,
        f"agentmill domain check {name}",
        f"python -m pytest {name}",
        f"agentmill run {name}.yaml --until simulate",
    ]


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise ConfigError(
            f"NAME={name!r} cannot be a Python package that is imported by its name; use small letters, digits and "
            "single underscores, such as bike_shop"
        )
    if name in known_packs() or _importable(name):
        raise ConfigError(
            f"NAME={name!r} is taken by a module that can be imported already, which would be found in its place; "
            f"take another, such as {name}_desk"
        )


def _importable(name: str) -> bool:
    """Whether something other than a bare folder of that name can be imported."""
    spec = find_spec(name)
    return spec is not None and spec.origin is not None
