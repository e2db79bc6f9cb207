"""The README that is written into a sample corpus."""

import collections

from empatheia_jax.data.emotions import AVATAR_EMOTIONS
from empatheia_jax.preparation.sample_performance import FACE_SIZE


def corpus_card(labels: dict) -> str:
    """Return the Markdown text: what the corpus is, what is in it, and what it is not.

    Args:
      labels: contents of labels.json.
    """
    rows = []
    for split, dialogues in labels["dialogues"].items():
        counts = collections.Counter((entry["half"], entry["emotion"]) for entry in dialogues.values())
        for half in ("emotional", "neutral"):
            cells = " | ".join(str(counts[half, emotion]) for emotion in AVATAR_EMOTIONS)
            rows.append(f"| {split} | {half} | {cells} |")
    table = "\n".join(rows)
    return f"""# empatheia_jax sample corpus (seed {labels["seed"]})

Small, synthetic, in the layout of the AvaMERG release. Everything was written and rendered by `empatheia sample`:
the words are put together from a small grammar, the voices are espeak-ng's, the faces are drawn. **No real person is
heard or seen**, and nothing here says how well a model does on real people.

| split | half | {" | ".join(AVATAR_EMOTIONS)} |
| --- | --- | {" | ".join("---" for _ in AVATAR_EMOTIONS)} |
{table}

* `train.json`, `audio_v5_0/`, `video_v5_0/`: training dialogues; conversation ids are per split.
* `test/test.json`: histories only, as the challenge released it. `test/v_test_v5_0.json`: the same, labelled.
* `test/test_audio/`, `test/test_video/`: media of the test dialogues, the answers' included.
* Media names: `dia<conversation>utt<index>_<avatar>`; wav: 24 kHz mono 16 bit; mp4: {FACE_SIZE} x {FACE_SIZE}, 25 fps,
  h264 + aac.
* `labels.json`: for each dialogue its avatar emotion and its half. In the *emotional* half the words tell the emotion.
  In the *neutral* half nothing said before the last answer does, nor the situation, the scenario or the cause: only
  voice and face tell, and the label is the avatar emotion's plainest word.
* Speaker and listener both express the dialogue's emotion, each in the voice and with the face of its own profile.
* No sentence and no avatar of test occurs in train.
"""
