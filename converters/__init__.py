"""Published torch checkpoints -> Flax: `python -m converters FAMILY --input PATH --output DIR`.

tensors.py, readers.py, torch_files.py   names, shapes and numbers from safetensors and torch files; no code in a file
                                         is executed
gguf_files.py, onnx_files.py             the same from GGUF and ONNX files, dequantised
rules.py, torch_layers.py                a family is a table of rules: every tensor is used once, every parameter filled
vicuna.py, clip.py, ...                  one table a family, and the published settings -> our config
convert.py                               one family's checkpoint -> a folder of weights
companion_files.py, outputs.py           files beside the weights; folders that are complete or absent
export.py                                the way back: converted weights, or a trained run -> transformers and PEFT
peft.py                                  a PEFT adapter -> a folder that `Config.adapter` names
verify.py, verify_kokoro.py              the same input through the converted model and the original
"""
