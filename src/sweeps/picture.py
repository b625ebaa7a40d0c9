"""``sweep.png``."""

from pathlib import Path

from src.sweeps.outcomes import Results


def draw(results: Results, path: Path) -> None:
    """Draw."""
    path.write_bytes(b"")
