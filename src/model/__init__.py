"""Token ids become logits, a loss, and next tokens. This room knows no text and no data source.

Shape letters: B blocks or sequences, T positions, D width, H heads, V vocabulary, S supervised
positions, N = B x T flattened positions.
"""
