"""One file per stage, all of one form. Stages do not import each other.

Each has `Inputs`, `Args` (of one task), `tasks`, `Worker`, and `STAGE`, the declaration. Their
order is in `generations.stage_order`.

May import: everything below: datasets, runtime, retrieval, models, inputs, storage, config.
"""
