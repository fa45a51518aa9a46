"""Fixtures of whole runs."""

import pytest
import tiny


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tiny.Command:
    """`policyopt ARGUMENTS` in this process."""
    return tiny.Command(monkeypatch, capsys)
