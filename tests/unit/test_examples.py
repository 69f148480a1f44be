"""The examples of the functions that people call from Python do what they show."""

import doctest
import importlib

import pytest

import segal.functional

MODULES = sorted({getattr(segal.functional, n).__module__ for n in segal.functional.__all__})


@pytest.mark.parametrize("module", [*MODULES, "segal.functional.shares", "segal.jobs.from_python"])
def test_examples(module):
    result = doctest.testmod(
        importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", segal.functional.__all__)
def test_every_public_function_has_one(name):
    assert ">>>" in (getattr(segal.functional, name).__doc__ or "")
