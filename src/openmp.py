"""How OpenMP's threads wait for each other: torch computes with them on a CPU."""

import ctypes
import threading
from functools import lru_cache
from pathlib import Path


@lru_cache
def openmp() -> ctypes.CDLL | None:
    """Return a library whose ``GOMP_parallel`` is the one that torch calls; None: it is not GNU's.

    Other packages bring libraries of the same name, each with threads of its own.
    """
    import torch

    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    except OSError:
        return None
    is_gnu = hasattr(library, "GOMP_parallel") and not hasattr(library, "kmp_set_blocktime")
    return library if is_gnu else None


class ShortWaits:
    """Lets OpenMP's threads sleep soon when they wait.

    libgomp turns 300,000 times before it sleeps, and 100 times where it has more threads than cores
    (GOMP_SPINCOUNT in its manual). So a team of threads that do nothing is kept meanwhile.

    Args:
        num_threads: how many sleep.
    """

    def __init__(self, num_threads: int):
        self._begun, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, args=(num_threads,), daemon=True)
        self._thread.start()
        self._begun.wait()

    def _keep(self, num_threads: int) -> None:
        try:
            self._start(num_threads)
        finally:
            self._begun.set()
        self._over.wait()

    def _start(self, num_threads: int) -> None:
        library = openmp()
        assert library is not None
        nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # free(NULL)
        run = library.GOMP_parallel
        run.argtypes, run.restype = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_uint] * 2], None
        run(nothing, None, num_threads + 1, 0)  # this one, and those that sleep

    def end(self) -> None:
        """Let the threads wait as before."""
        self._over.set()
        self._thread.join()
