"""A small run by several processes, for tests that kill some of them."""

import pytest
from pair import Pair
from trainer import Trainer


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return Pair(Trainer(tmp_path_factory.mktemp("failures"), epochs=12))
