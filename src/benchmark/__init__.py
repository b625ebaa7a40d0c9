"""Ours beside the article, Hugging Face and TRL, on this machine, in one run, on the same rows.

::

    inputs ──> parts: train, prepare, pack, generate, learn ──> benchmark.json ──> report: Markdown
    the same     │  variants: ours, article, huggingface, trl_sft
    rows and     └─ turns, a process each ──> stopwatch
    weights

A part is one object (``part.Part``): its name, its variants, how its figures are shown. A new part
is one file and one line in ``benchmark.PARTS``. A variant is a function that works until the
stopwatch has enough, and tells it of every step. Each turn is a process of its own: its peak memory
is its own, and what a library changes in another does not reach it. Variants take turns (A B C,
A B C, ...), so that a machine that slows down slows all of them.
"""
