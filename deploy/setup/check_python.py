"""Say what is missing before an environment is made, in words that name the mend."""

import importlib.util
import sys

if sys.version_info < (3, 11):
    found = ".".join(map(str, sys.version_info[:3]))
    sys.exit(
        f"The controller needs Python 3.11 or newer, this is {found}.\n"
        "Run: make PYTHON=python3.11 …  (agents alone run on 3.10)"
    )
if importlib.util.find_spec("ensurepip") is None:
    sys.exit("This Python cannot make environments. Run: apt-get install python3-venv")
