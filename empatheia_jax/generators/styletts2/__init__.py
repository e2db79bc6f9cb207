"""StyleTTS 2 (Li et al. 2023, appendix D.2.1) in Flax, frozen: text, style and prosody to a 24 kHz waveform.

Modules are named as upstream's, so a parameter's path is its name in the published files. Layout is [B, T, C]; what is
padded is masked, so that a row of a batch is what it would be alone.
"""
