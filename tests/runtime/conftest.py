"""Fixtures of whole runs."""

from collections.abc import Iterator

import pytest
import tiny

from policyopt.runtime.cluster import connect


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tiny.Command:
    """`policyopt ARGUMENTS` in this process."""
    return tiny.Command(monkeypatch, capsys)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of this machine."""
    end = connect(None, 6)
    yield
    end()
