"""`train.py` on a quantised base: a copy of another run's, resumed after a kill, loaded again to answer."""

import shutil

import numpy as np
import pytest

from empatheia_jax.data.corpus.avamerg import read_examples
from empatheia_jax.inference.load import load_engine
from support.trainer import Trainer

pytestmark = pytest.mark.slow
NF4 = (
    "--llm.quantization",
    "nf4",
    "--llm.quantization-tile",
    "8",
    "--checkpoint-every",
    "4",
    "--stages.1.learning-rate",
    "0.02",
    "--stages.1.epochs",
    "12",  # enough for adapters of rank 2 to lower the loss
)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """Train stage 0 by itself and copy its base into the folders of two runs that tune it in nf4; run the first."""
    pytest.importorskip("qwix")
    trainer = Trainer(tmp_path_factory.mktemp("quantized"))
    trainer.run("first", "--stages", "0")
    for name in ("uninterrupted", "killed"):
        (trainer.folder / name).mkdir()
        shutil.copytree(trainer.folder / "first" / "base", trainer.folder / name / "base")
    trainer.run("uninterrupted", "--stages", "1", *NF4)
    return trainer


def test_it_learns(trainer):
    losses = [record["emp"] for record in trainer.read("uninterrupted", "metrics.jsonl") if "emp" in record]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])  # an epoch each, over the same Examples


def test_stage_0_is_refused(trainer):
    code, _, err = trainer.finish(trainer.start("refused", *NF4))
    assert code == 2 and err.count("\n") == 1 and "stage 0 trains the base" in err
    assert not (trainer.folder / "refused" / "config.json").exists()


def test_a_killed_run_goes_on_with_the_same_bits(trainer):
    assert trainer.kill_at("killed", 6, "--stages", "1", *NF4)
    trainer.run("killed", "--stages", "1", "--resume", *NF4)
    trainer.assert_equal("uninterrupted", "killed")


def test_it_answers_in_its_own_quantization_and_in_others(trainer):
    examples = read_examples(trainer.folder / "data", "validation")[0][:2]
    bytes_held = {}
    for quantization in (None, "int8", "none"):
        engine = load_engine(trainer.folder / "uninterrupted", max_new_tokens=8, quantization=quantization)
        kernel = engine.state["llm"]["layers"]["up_proj"]["kernel"]
        leaves = [kernel] if quantization == "none" else [kernel["codes"], kernel["scales"]]
        bytes_held[quantization] = sum(leaf.get_value().nbytes for leaf in leaves)
        assert len(engine.answer(examples, lambda key: None, [None] * len(examples))) == len(examples)
    assert bytes_held == {None: 16 * 16 // 2 + 4 * 2 * 16, "int8": 16 * 16 + 4 * 16, "none": 4 * 16 * 16}
