"""What a finished run no longer needs: its checkpoints, each three times as large as its model."""

from collections.abc import Iterable
from pathlib import Path

from src.errors import UserError
from src.files import atomic
from src.training import lock
from src.training.checkpoint_file import PREVIOUS
from src.training.checkpoints import LAST
from src.training.record import RECORD, is_finished, read_record


def num_bytes(run_folder: Path) -> int:
    """Return how many bytes the checkpoints of a run take."""
    return sum(path.stat().st_size for path in _checkpoints(run_folder))


def drop_checkpoints(run_folder: Path) -> None:
    """Remove the checkpoints of a finished run.

    This is the last that a run does. If it is killed before, ``sweep`` does it.

    Raises:
        OSError: the system refuses.
    """
    for path in _checkpoints(run_folder):
        path.unlink(missing_ok=True)
    folder = run_folder / "checkpoints"
    if folder.is_dir() and not folder.is_symlink():
        atomic.sweep(folder)


def sweep(run_folders: Iterable[Path]) -> None:
    """Remove what runs left that finished, and were killed before they had removed it.

    A run that was to keep its checkpoints, or does not say, keeps them; so does one that a process
    is at, or that is another person's.
    """
    for folder in run_folders:
        if not is_finished(folder) or not _checkpoints(folder) or not _drops(folder):
            continue
        try:
            if not lock.hold(folder):
                continue
        except OSError:  # another person's
            continue
        try:
            drop_checkpoints(folder)
        except OSError:
            continue
        finally:
            lock.release(folder)


def siblings(run_folder: Path) -> list[Path]:
    """Return the other runs in the folder that ``run_folder`` is in."""
    records = run_folder.absolute().parent.glob(f"*/{RECORD}")
    return [path.parent for path in records if path.parent != run_folder.absolute()]


def _drops(run_folder: Path) -> bool:
    try:
        trainer = read_record(run_folder).config.get("trainer")
    except UserError:
        return False
    return isinstance(trainer, dict) and trainer.get("keep_optimizer") is False


def _checkpoints(run_folder: Path) -> list[Path]:
    """Return the checkpoints that a run has: files of ours, and not what a link leads to."""
    folder = run_folder / "checkpoints"
    if folder.is_symlink():
        return []
    paths = (folder / name for name in (LAST, PREVIOUS))
    return [path for path in paths if path.is_file() and not path.is_symlink()]
