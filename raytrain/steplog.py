"""Reading the step log that the workers write (see raytrain.callbacks), without importing torch."""

import json
from pathlib import Path
from typing import Any


def read_steps(file: Path) -> list[dict[str, Any]]:
    """The rows of a step log; a last line that a kill cut short is left out."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]
