"""The phoneme of each video frame, as computed on the device, is the generators'."""

import numpy as np

from empatheia_jax.data.schema import SYMBOL_COUNT
from empatheia_jax.generators.interfaces import phoneme_of_video_frame, video_frame_count
from empatheia_jax.generators.phonemes import SYMBOLS
from empatheia_jax.latents.content_synchronizer import active_phoneme


def test_active_phoneme_equals_the_generators(seed):
    rng = np.random.default_rng(seed)
    phoneme_frames = rng.integers(0, 7, (6, 30))
    phoneme_frames[:, 25:] = 0  # padding
    index, fraction = active_phoneme(phoneme_frames, 128)
    for row in range(len(phoneme_frames)):
        expected_index, expected_fraction = phoneme_of_video_frame(phoneme_frames[row])
        count = video_frame_count(phoneme_frames[row])
        assert len(expected_index) == count
        np.testing.assert_array_equal(np.asarray(index)[row, :count], expected_index)
        np.testing.assert_allclose(np.asarray(fraction)[row, :count], expected_fraction, atol=1e-6)


def test_frames_cover_the_speech(seed):
    for total in np.random.default_rng(seed).integers(1, 400, 50):
        count = video_frame_count(np.array([total]))
        assert (count - 1) * 0.040 < total * 0.025 <= count * 0.040 + 1e-9


def test_symbol_table_is_as_large_as_the_schema_says():
    assert len(SYMBOLS) == SYMBOL_COUNT
