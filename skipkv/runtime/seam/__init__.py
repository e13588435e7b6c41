"""All that transformers sees of us, and all that we do to a model of it.

Start with `cache.py`, then `functions.py`. To support a new version of transformers, change this
folder alone; `make versions` runs the tests on the oldest and the newest.
"""
