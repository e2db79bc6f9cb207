"""A small run by several processes, for tests that take some of them away."""

import pytest
from pair import Pair
from trainer import Trainer


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return Pair(Trainer(tmp_path_factory.mktemp("failures"), epochs=12))
