"""Published torch checkpoints -> Flax: `python -m converters FAMILY --input PATH --output DIR`.

readers.py, torch_files.py    names, shapes and numbers from safetensors and torch files; nothing in them is executed
rules.py                      a family is a table of rules: every tensor is used once, every parameter filled once
vicuna.py, hubert.py, ...     one table a family, and the published settings -> our config
convert.py                    one family's checkpoint -> a folder of weights
export.py, export_run.py      the way back: converted weights, or a trained run -> transformers and PEFT
peft.py                       a PEFT adapter -> a folder that `Config.adapter` names
verify.py                     the same input through the converted model and the original
"""
