"""A small run by several processes, for tests that take some of them away."""

import pytest
from pair import Pair
from trainer import TEXT, Trainer


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    short = TEXT.replace('"0": StageConfig(epochs=50', '"0": StageConfig(epochs=12')
    return Pair(Trainer(tmp_path_factory.mktemp("failures"), short))
