"""Finding a domain pack by its name: one that ships here, or any importable package with `build() -> Domain`.

In goes the name of the configuration (`automotive`, `bikeshop`, `acme.bikeshop`), out comes a Domain that holds
together. A package in the current directory counts as importable. Invariant: every way in which a pack can be unusable
is a ConfigError of its own, and a fault inside of a pack never reads as "there is no such pack".
"""

import importlib
import os
import pkgutil
import re
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from agentmill import domains
from agentmill.config import ConfigError, nearest
from agentmill.domains.base import Domain
from agentmill.domains.consistency import inconsistencies

_SHIPPED = domains.__name__
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_BUILD = re.compile(r"^def build\(|^from .* import .*\bbuild\b", re.MULTILINE)
_NOT_CODE = {"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"}


def load_pack(name: str) -> Domain:
    """The domain of the pack of this name.

    Raises:
        ConfigError: when there is no such pack, its import or its `build()` fails, or its tables contradict each other.
    """
    domain = build_pack(name)
    problems = inconsistencies(domain)
    if problems:
        raise ConfigError("\n".join(f"domain={name!r}: {problem}" for problem in problems))
    return domain


def build_pack(name: str) -> Domain:
    """What the pack's `build()` gives, whether or not it holds together.

    Raises:
        ConfigError: when there is no such pack, or its import or its `build()` fails.
    """
    module = _imported(name, pack_module(name))
    build = getattr(module, "build", None)
    if not callable(build):
        raise ConfigError(
            f"domain={name!r}: {module.__name__} has no function build(), which a pack gives its Domain with; "
            f"add one to {_first_file(module)}, or name another package"
        )
    try:
        domain = build()
    except Exception as error:
        raise ConfigError(f"domain={name!r}: build() fails with {fault(error)}; mend the pack") from error
    if not isinstance(domain, Domain):
        raise ConfigError(
            f"domain={name!r}: build() returns a {type(domain).__name__}, and it must be an agentmill.domains.base."
            "Domain; return one"
        )
    return domain


def pack_module(name: str) -> str:
    """The module of the pack of this name, found without running the pack itself.

    Raises:
        ConfigError: when there is none; names the nearest, and the packs that there are.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"domain={name!r} is no name of a Python package; write for example automotive or acme.bikeshop"
        )
    for path in ([] if "." in name else [f"{_SHIPPED}.{name}"]) + [name]:
        if _spec(name, path) is not None:
            return path
    known = known_packs()
    guess = nearest(name, known)
    meant = f"did you mean {guess}? " if guess else ""
    raise ConfigError(
        f"domain={name!r}: no such domain pack; {meant}there are: {', '.join(known)}; a pack of your own must be "
        f"installed or lie in {os.getcwd()}; `agentmill domain new NAME` makes one"
    )


def known_packs() -> list[str]:
    """The packs that ship here, and the packages with a `build` in the current directory."""
    shipped = [str(path) for path in domains.__path__]
    return sorted({name for folder in (*shipped, os.getcwd()) for name in _packs_in(folder)})


def pack_files(name: str) -> dict[str, Path]:
    """The files that decide what a pack outside of agentmill does, by their paths in it; none for one that ships here.

    Its tests decide nothing and are left out.


    Raises:
        ConfigError: when there is no such pack.
    """
    path = pack_module(name)
    spec = _spec(name, path)
    assert spec is not None
    if path.startswith(f"{_SHIPPED}."):
        return {}  # its code is agentmill's own
    if not spec.submodule_search_locations:
        return {Path(spec.origin).name: Path(spec.origin)} if spec.origin else {}
    roots = [Path(folder) for folder in spec.submodule_search_locations]
    files = [(str(file.relative_to(root)), file) for root in roots for file in root.rglob("*") if file.is_file()]
    return {name: file for name, file in sorted(files) if _decides(Path(name))}


def _decides(file: Path) -> bool:
    skipped = {*_NOT_CODE, "tests"} & set(file.parts)
    return not skipped and not file.name.startswith(("test_", "conftest")) and file.suffix != ".pyc"


def _packs_in(folder: str) -> list[str]:
    """The packages of a folder whose first module gives a `build`, by its text: nothing is imported."""
    found = []
    for module in pkgutil.iter_modules([folder]):
        first = Path(folder, module.name, "__init__.py")
        if module.ispkg and first.is_file() and _BUILD.search(first.read_text(encoding="utf-8", errors="replace")):
            found.append(module.name)
    return found


def _spec(name: str, path: str) -> ModuleSpec | None:
    """Where a module would be imported from, None where there is none; packages above it are imported."""
    _look_here()
    try:
        return find_spec(path)
    except ModuleNotFoundError as error:
        if error.name is not None and (path == error.name or path.startswith(f"{error.name}.")):
            return None
        raise ConfigError(_import_failed(name, error)) from error
    except Exception as error:
        raise ConfigError(_import_failed(name, error)) from error


def _imported(name: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except Exception as error:
        raise ConfigError(_import_failed(name, error)) from error


def _first_file(module: ModuleType) -> str:
    return module.__file__ or str(Path(next(iter(module.__path__)), "__init__.py"))


def _import_failed(name: str, error: Exception) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    remedy = f"install {missing}, or mend the import" if missing else "mend the pack"
    return f"domain={name!r}: the pack is there and its import fails with {fault(error)}; {remedy}"


def fault(error: Exception) -> str:
    """What a pack's code raised, and the last place in a file that it came from."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" ({Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno})" if trace is not None else ""
    return f"{type(error).__name__}: {error}{where}"


def _look_here() -> None:
    """Let packages of the current directory be imported, after everything that is installed.

    Ray puts the directory that its session was started in on the path of its workers and replicas.
    """
    here = os.getcwd()
    if not {here, ""} & set(sys.path):
        sys.path.append(here)
    importlib.invalidate_caches()
