"""The small base: a tokenizer and a tiny Llama that the project makes itself and ships as package data."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
