"""Processes for the tests of this room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tasks.cheap import Nursery


@pytest.fixture(scope="package")
def nursery() -> Iterator[Nursery]:
    started = Nursery()
    yield started
    started.close()
