import os

import pytest

from anycost.environment import environment


def test_variables_are_there_for_a_while(monkeypatch):
    monkeypatch.setenv("ANYCOST_KNOWN", "before")
    monkeypatch.delenv("ANYCOST_NEW", raising=False)
    with environment({"ANYCOST_KNOWN": "while", "ANYCOST_NEW": "too"}):
        assert (os.environ["ANYCOST_KNOWN"], os.environ["ANYCOST_NEW"]) == ("while", "too")
    assert os.environ["ANYCOST_KNOWN"] == "before" and "ANYCOST_NEW" not in os.environ


def test_they_are_put_back_after_an_error(monkeypatch):
    monkeypatch.setenv("ANYCOST_KNOWN", "before")
    with pytest.raises(ValueError, match="broken"), environment({"ANYCOST_KNOWN": "while"}):
        raise ValueError("broken")
    assert os.environ["ANYCOST_KNOWN"] == "before"
