"""A batch job of SLURM that is told to stop goes on when it has been queued again.

``#SBATCH --signal=USR1@120`` has SLURM send SIGUSR1 two minutes before the time is over. The run
saves and stops, and asks for its job to be queued again; ``#SBATCH --no-requeue`` forbids it. The
job that starts again runs the same script: it goes on with the run that it began, as if
``resume=`` named it. The same holds for a job that SLURM itself has queued again.
"""

import logging
import os
import subprocess
from collections.abc import Mapping

SECONDS_TO_ANSWER = 30

log = logging.getLogger(__name__)


def job(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the number of the job that this process is part of, as scontrol knows it."""
    array, task = (environment.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    if array and task:
        return f"{array}_{task}"
    return environment.get("SLURM_JOB_ID")


def is_restarted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this job has been queued again after it had run."""
    count = environment.get("SLURM_RESTART_COUNT", "0")
    return job(environment) is not None and count.isdecimal() and int(count) > 0


def requeue() -> None:
    """Ask SLURM to queue this job again; say whether it will."""
    number = job()
    if number is None:
        return
    try:
        done = subprocess.run(
            ["scontrol", "requeue", number],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS_TO_ANSWER,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("warning: job %s is not queued again: scontrol: %s", number, error)
        return
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        log.warning("warning: job %s is not queued again: scontrol: %s", number, reason)
    else:
        log.warning("job %s is queued again, and will go on with this run", number)
