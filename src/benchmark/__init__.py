"""Ours against the article, Hugging Face and TRL, on this machine, in one run, on the same rows.

::

    rows, model ──> variants ──> workers ──> rounds ──> figures ──> benchmark.json, table, picture
    inputs          ours         stopwatch              report      picture
                    article
                    huggingface
                    trl_sft
                    prepare
                    decode
                    learn, scale

A variant is a function that works until it is told to stop, and tells a stopwatch of every step it
has done. It runs in a process of its own: its peak memory is its own, and what a library changes in
another is not its concern. Variants take turns (A B C, A B C, ...), so that a machine that slows
down slows all of them; a process ends after its turn and begins anew, unless ``keep_alive``.
"""
