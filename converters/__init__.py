"""Published torch checkpoints -> Flax: `python -m converters FAMILY --input PATH --output DIR`.

readers.py    names, shapes and numbers out of safetensors and torch files, without running anything in them
rules.py      a family is a table of rules; every source tensor is used once, every parameter filled once
hubert.py, clip.py    the tables, and transformers' config.json -> ours
convert.py    one family's checkpoint -> a folder that encoders read
"""
