"""Rows become batches. This room knows no model.

::

    rows ──> conversations ──> examples ──> corpus ──> blocks ──> batches
    sources  conversation      template     corpus     packing    order
    files                      tokenizer               blocks     datamodule
"""
