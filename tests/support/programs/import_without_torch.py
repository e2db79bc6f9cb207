"""Import modules and run `train.py --help`, and check that nothing imports torch: ... MODULE..."""

import importlib
import runpy
import sys

for name in sys.argv[1:]:
    importlib.import_module(name)
    assert "torch" not in sys.modules, name
sys.argv = ["train.py", "--help"]
try:
    runpy.run_path("train.py", run_name="__main__")
except SystemExit:
    pass
assert "torch" not in sys.modules, "train.py"
