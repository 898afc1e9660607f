"""Data loading: draws -> reader -> workers -> stream of batches.

`draws` (with `order`) says what each micro-step holds, `reader` (with `sample_table`, `storage` and `buffers`) reads it,
`workers` are processes that read ahead, and `stream` hands out each `batch`.
"""
