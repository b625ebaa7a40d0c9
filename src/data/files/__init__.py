"""Rows of files, whatever holds them: what a file is, is read from its first bytes.

::

    names (a path, a list, a pattern, a folder)        places.py
      └─> files ──> unpacked: gzip, bz2, xz, zip ...   unpacking.py
            └─> what is it?                            reader.py
                  ├─ JSON in any layout                json_rows.py   objects.py
                  ├─ a table of separated text         tables.py
                  ├─ Parquet, Arrow, save_to_disk      columnar.py
                  └─ something else: refused by name   foreign.py

Each file becomes one ``Part`` for each split that it holds; its records are read later, one at a
time.
"""
