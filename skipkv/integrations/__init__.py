"""What joins skipkv to other people's tools: each member needs an extra, and has a page.

A member is a file, or a folder of small ones, that is imported by its own name, as in `from
skipkv.integrations.serve import HttpServer`. To add one, name its extra in pyproject.toml, ask for
it with `require_extra` where it is used, and test it with the real other library.
"""
