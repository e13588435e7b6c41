"""The paper's five observations on the embedded model, an experiment per file.

To add one: a module with `measure(setting)`, which returns numbers as JSON holds them, `table` and
`draw`, which show them, and its name in `EXPERIMENTS` of `observations.py`.
"""
