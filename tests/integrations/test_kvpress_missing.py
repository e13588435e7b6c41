"""The files that join kvpress, where it is not installed."""

import importlib
import sys

import pytest

from skipkv.errors import MissingExtraError


def test_the_error_says_which_extra_brings_kvpress(monkeypatch):
    monkeypatch.setitem(sys.modules, "kvpress", None)
    monkeypatch.delitem(sys.modules, "skipkv.integrations.kvpress", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'skipkv\[kvpress\]'"):
        importlib.import_module("skipkv.integrations.kvpress")
