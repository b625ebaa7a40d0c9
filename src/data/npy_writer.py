"""A ``.npy`` file that grows."""

from pathlib import Path

import numpy as np


class NpyWriter:
    """Appends to a ``.npy`` file."""

    def __init__(self, path: Path, dtype: np.dtype | type):
        self.dtype = np.dtype(dtype)
        self.length = 0
        self.file = path.open("wb")
        self._write_header()

    def _write_header(self) -> None:
        # numpy pads its header so that a growing first axis never changes the header's size.
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.length,),
        }
        np.lib.format.write_array_header_1_0(self.file, header)

    def append(self, values: np.ndarray) -> None:
        """Append ``values`` (n,)."""
        self.length += len(values)
        self.file.write(np.ascontiguousarray(values, self.dtype).data)

    def close(self) -> None:
        """Write the length."""
        self.file.seek(0)
        self._write_header()
        self.file.close()
