"""The part of `extract` that runs in the main process: networks on the accelerator, many recordings at once."""

from collections.abc import Mapping

from empatheia_jax.encoders import ModalityEncoder

# What a worker leaves in a listener's record for `add_golds`, which removes it again: the samples, and what the
# generators' `prepare` made of sound and frames.
SAMPLES, PREPARED_SPEECH, PREPARED_CLIP = "samples", "prepared_speech", "prepared_clip"


def encode_records(records: list[tuple[str, dict]], encoders: Mapping[str, ModalityEncoder]) -> list[tuple[str, dict]]:
    """Encode the preprocessed "audio" and "video" of records with the encoders that are `on_device`.

    Args:
      records: (key, arrays) of some utterances.
      encoders: encoders by modality.

    Returns:
      The records with features in place of what was preprocessed.
    """
    records = [(key, dict(arrays)) for key, arrays in records]
    for modality, encoder in encoders.items():
        with_modality = [arrays for _, arrays in records if modality in arrays]
        if encoder.on_device and with_modality:
            features = encoder.encode([arrays[modality] for arrays in with_modality])
            for arrays, feature in zip(with_modality, features, strict=True):
                arrays[modality] = feature
    return records


def add_golds(records: list[tuple[str, dict]], speech, face, notes: dict) -> list[tuple[str, dict]]:
    """Compute the gold targets of records with the generators that are `on_device`.

    Args:
      records: (key, arrays) of some utterances; those with `SAMPLES`, `PREPARED_SPEECH` or `PREPARED_CLIP` get golds.
      speech: the speech generator.
      face: the face generator.
      notes: {rejected, counts} of the utterances; golds that cannot be computed are rejected there, as in a worker.

    Returns:
      The records with golds in place of those arrays.
    """
    records = [(key, dict(arrays)) for key, arrays in records]
    with_clip = [arrays for _, arrays in records if PREPARED_CLIP in arrays]
    if with_clip:
        for arrays, style in zip(
            with_clip, face.styles([arrays.pop(PREPARED_CLIP) for arrays in with_clip]), strict=True
        ):
            arrays["style_video"] = style
    recorded = [(key, arrays, arrays.pop(SAMPLES)) for key, arrays in records if SAMPLES in arrays]
    if speech.on_device and recorded:
        golds = speech.golds(
            [arrays.pop(PREPARED_SPEECH) for _, arrays, _ in recorded],
            [arrays["phonemes"] for _, arrays, _ in recorded],
            [len(audio) / speech.sample_rate for _, _, audio in recorded],
        )
        for (_, arrays, _), gold in zip(recorded, golds, strict=True):
            arrays |= gold
    for key, arrays, audio in recorded:
        try:
            arrays["content_video"] = face.content(
                audio, speech.sample_rate, arrays["phonemes"], arrays["phoneme_frames"]
            )
        except ValueError as error:
            for name in ("phonemes", "phoneme_frames", "content_speech", "style_speech"):
                del arrays[name]
            notes["counts"]["gold"] -= 1
            notes["rejected"].append({"key": key, "modality": "gold", "file": "", "error": str(error)})
    return records
