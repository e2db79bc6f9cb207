"""Encoders split their batches over all devices of a machine; the features are those of one device."""

from pathlib import Path

import numpy as np
import pytest

from support.programs import run_program


def features(path: Path, devices: int) -> dict[str, np.ndarray]:
    """Return the features that a process with so many devices computes."""
    run_program("encode_on_devices", path, devices, devices=devices)
    return dict(np.load(path))


@pytest.mark.slow
def test_eight_devices_say_what_one_says(tmp_path):
    single, eight = features(tmp_path / "one.npz", 1), features(tmp_path / "eight.npz", 8)
    for name, array in single.items():
        np.testing.assert_allclose(eight[name], array, rtol=1e-4, atol=1e-5)
