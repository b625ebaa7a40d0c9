"""Whether an archive of ``torch.save`` agrees with itself, where no checksum is known.

Its directory at the end repeats what stands before and after each record. torch believes the
directory, and Python's zipfile checks the records: here each is held against the other.
"""

import struct
import zipfile
from pathlib import Path
from typing import IO

LOCAL = struct.Struct("<4s5H3I2H")  # the header before a record
END = struct.Struct("<4s4H2IH")  # the end of the directory, and so of the file
DESCRIPTOR = b"PK\x07\x08"  # after a record: its CRC and its two sizes
STREAMED = 8  # the flag for a descriptor


def is_consistent(path: Path) -> bool:
    """Whether a file is an archive as ``torch.save`` writes it, without a gap or a contradiction.

    A changed bit is found wherever it would change what is read; only checksums of 32 bits speak
    for the records.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            end = _end_of_records(file, archive.infolist())
            if end != archive.start_dir:
                return False
            file.seek(-END.size, 2)
            signature, *_, comment = END.unpack(file.read())
            return signature == b"PK\x05\x06" and comment == 0 and archive.testzip() is None
    # zipfile raises a dozen kinds, UnicodeDecodeError and NotImplementedError among them.
    except Exception:
        return False


def _end_of_records(file: IO[bytes], records: list[zipfile.ZipInfo]) -> int:
    """Return where the last record ends, or -1 where the directory contradicts the records."""
    position = 0
    for record in records:
        file.seek(position)
        header = LOCAL.unpack(file.read(LOCAL.size))
        signature, _, flags, method, *_, len_name, len_extra = header
        size = record.file_size
        known = (position, flags, method, 0, 0, size)
        if (
            signature != b"PK\x03\x04"
            or method
            or not flags & STREAMED
            or known
            != (
                record.header_offset,
                record.flag_bits,
                record.compress_type,
                record.external_attr,
                record.volume,
                record.compress_size,
            )
        ):
            return -1
        file.seek(position + LOCAL.size + len_name + len_extra + size)
        for form in ("<4sIII", "<4sIQQ"):  # the latter in large archives
            start = file.tell()
            found = struct.unpack(form, file.read(struct.calcsize(form)))
            if found == (DESCRIPTOR, record.CRC, size, size):
                position = file.tell()
                break
            file.seek(start)
        else:
            return -1
    return position
