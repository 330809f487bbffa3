"""Figures of the project's own parts, and against peers: both sides of a comparison are measured in one run."""
