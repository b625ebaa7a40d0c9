"""Ours beside the article, Hugging Face and TRL, on this machine, in one run, on the same rows.

::

    inputs ──> parts: train, prepare, pack, generate, learn ──> benchmark.json ──> Markdown
    the same     │  variants: ours, article, huggingface, trl_sft
    rows and     └─ turns, a process each ──> stopwatch
    weights

A part is one object (``part.Part``): its name, its variants, how its figures are shown. A new part
is one file and one line in ``benchmark.PARTS``. A variant is a function that works until the
stopwatch has enough, and tells it of every step.
"""
