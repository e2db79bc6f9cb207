"""StyleTTS 2 (Li et al. 2023, appendix D.2.1) in Flax, frozen: text, style and prosody to a 24 kHz waveform.

Modules are named as upstream's, so a parameter's path is its name in the published files. Layout is [B, T, C]. Padding
is masked everywhere, so that an utterance in a batch gives the same result as by itself. README.md maps the paper to
files.
"""
