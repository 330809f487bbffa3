"""Strict configuration: YAML 1.2 in, validated pydantic models out, errors that a user can act on.

Every settings class derives from Strict and lives beside its owner. YAML 1.2 is read, so that `1e-5` is a number
and `no` a string. Invariant: a wrong key, value or type raises ConfigError in four parts (field and value, the rule,
the reason, the remedy) and never reaches a stage.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from agentmill.errors import UserError as UserError


class ConfigError(UserError, ValueError):
    """A configuration that cannot be used. The message names the field, its value, the rule and the remedy."""


class Strict(BaseModel):
    """Base of all settings: unknown keys are refused, values are checked when the object is made, and then frozen.

    `OPERATIONAL` names those that say how work is done (how many at a time, how long one waits) and not what comes
    out: they may be changed half-way.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    OPERATIONAL: ClassVar[frozenset[str]] = frozenset()

    def deciding(self) -> dict[str, Any]:
        """The settings that decide the result, as JSON values: all but the operational ones, those inside included."""
        dumped = self.model_dump(mode="json", exclude=set(self.OPERATIONAL))
        inner = {name: value for name, value in self if name in dumped and isinstance(value, Strict)}
        return {**dumped, **{name: value.deciding() for name, value in inner.items()}}


S = TypeVar("S", bound=BaseModel)


def load_yaml(path: Path | str) -> dict[str, Any]:
    """Read one YAML 1.2 mapping from a file.

    Raises:
        ConfigError: when the file is missing, is not YAML or is not a mapping.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{file}: there is no such configuration file{_nearby(file)}; give the path of a YAML file")
    return _mapping(_parse_yaml(file.read_text(encoding="utf-8"), str(file)), str(file))


def dump_yaml(data: Mapping[str, Any]) -> str:
    """The data as YAML that `load_yaml` reads, keys in their order."""
    from io import StringIO

    from ruamel.yaml import YAML

    writer, text = YAML(), StringIO()
    writer.dump(dict(data), text)
    return text.getvalue()


def override(data: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of `data` with each `a.b=value` applied; values are read as YAML, missing mappings are made.

    Raises:
        ConfigError: when an assignment has no `=`, or a key leads through something that is not a mapping.
    """
    result = _copy(data)
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        parts = key.strip().split(".")
        if not sign or not all(parts):
            raise ConfigError(
                f"--set {assignment!r} is no assignment; write --set key=value, for example --set data.public=FILE"
            )
        node = result
        for depth, part in enumerate(parts[:-1], 1):
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                path = ".".join(parts[:depth])
                raise ConfigError(
                    f"--set {assignment!r}: {path}={child!r} is a value and has no keys; set {path} itself"
                )
            node = child
        node[parts[-1]] = _parse_yaml(text, f"--set {assignment}") if text.strip() else None
    return result


def validate(model: type[S], data: Mapping[str, Any], source: str) -> S:
    """Build `model` from `data`; every problem is told at once, each on a line of its own.

    Raises:
        ConfigError: when a key is unknown (its nearest neighbour is named), missing, or has a wrong type or value.
    """
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        lines = [_explain(model, dict(problem)) for problem in error.errors(include_url=False)]
        raise ConfigError(f"{source}: " + f"\n{source}: ".join(lines)) from error


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `word`, or None where none is alike."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return close[0]
    return next((name for name in names if word and (name.startswith(word) or word.startswith(name))), None)


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """What changed between two JSON values, one line each: `simulate.conversations 100 -> 200`."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in sorted(old.keys() | new.keys()):
            lines += differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        return lines
    return [] if old == new else [f"{path} {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _parse_yaml(text: str, source: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    reader = YAML(typ="safe", pure=True)
    reader.version = (1, 2)
    try:
        return reader.load(text)
    except YAMLError as error:
        where = " ".join(str(error).split())
        raise ConfigError(f"{source}: not YAML 1.2: {where}; quote the value or mend the line") from error


def _mapping(value: Any, source: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: the top level is a {type(value).__name__}; write `key: value` lines")
    return value


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in data.items()}


def _nearby(file: Path) -> str:
    folder = file.parent
    names = [p.name for p in folder.glob("*.yaml")] if folder.is_dir() else []
    guess = nearest(file.name, names)
    return f" (did you mean {folder / guess}?)" if guess else ""


def _explain(model: type[BaseModel], problem: dict[str, Any]) -> str:
    location: tuple[int | str, ...] = problem["loc"]
    kind, value = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        return _unknown_key(model, location)
    name = ".".join(str(part) for part in location if not _is_tag(part)) or "the configuration"
    if kind == "missing":
        return f"{name} is missing and has no default; add it to the file or give --set {name}=VALUE"
    reason = problem["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    return f"{name}={_shown(value)}: {reason}; change it in the file or give --set {name}=VALUE"


def _unknown_key(model: type[BaseModel], location: Sequence[int | str]) -> str:
    name = ".".join(str(part) for part in location)
    owner: type[BaseModel] | None = model
    for part in location[:-1]:
        owner = _child(owner, part) if owner else None
    known = list(owner.model_fields) if owner else []
    guess = nearest(str(location[-1]), known)
    meant = f"did you mean {'.'.join([*map(str, location[:-1]), guess])}? " if guess else ""
    return f"{name} is no known key; {meant}known keys here: {', '.join(known) or 'none'}"


def _child(owner: type[BaseModel], part: int | str) -> type[BaseModel] | None:
    """The settings class behind one key of `owner`, through optional and container annotations."""
    field = owner.model_fields.get(str(part))
    return _settings_class(field.annotation) if field else None


def _settings_class(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, list, tuple, dict):
        for inner in get_args(annotation):
            found = _settings_class(inner)
            if found:
                return found
    return None


def _is_tag(part: int | str) -> bool:
    """Whether a location part is pydantic's name for a branch of a union (`int`, `function-after[...]`), not a key."""
    return isinstance(part, str) and (part in {"int", "float", "str", "bool", "none"} or "[" in part)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
