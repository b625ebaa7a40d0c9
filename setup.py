"""What a wheel holds: the package ``gpt2_chat``, with ``src`` and ``conf`` in it as they are here.

A top-level ``src`` in an environment would be in the way of every other project's. An editable
installation leaves all files where they are, and finds the packages there.
"""

import sys

from setuptools import find_packages, setup

ROOMS = find_packages(include=["src", "src.*"])
KINDS = "css html js json jinja md toml yaml"  # of files that are read beside the code
FILES = {"": [pattern for kind in KINDS.split() for pattern in (f"*.{kind}", f"**/*.{kind}")]}

if "editable_wheel" in sys.argv:
    setup(packages=["gpt2_chat", *ROOMS], package_data=FILES)
else:
    setup(
        packages=["gpt2_chat", *(f"gpt2_chat.{room}" for room in [*ROOMS, "conf"])],
        package_dir={f"gpt2_chat.{top}": top for top in ("src", "conf")},
        package_data=FILES,
    )
