"""A missing package is named together with the extra that brings it."""

import json

import pytest

from secateur.utils.extras import require


def test_what_is_there_is_imported():
    assert require("json", extra="export") is json


def test_what_is_missing_is_named():
    with pytest.raises(ImportError, match=r"no_such is not .*: pip install secateur\[demo\]$"):
        require("no_such", extra="demo")
