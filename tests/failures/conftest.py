"""A small run by several processes, for tests that kill some of them."""

import pytest

from support.pair import Pair
from support.trainer import Trainer


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return Pair(Trainer(tmp_path_factory.mktemp("failures"), "--stages.0.epochs", "12"))
