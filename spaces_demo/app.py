"""
The Space. On Hugging Face this file is all it takes; elsewhere it is the same as `unimp demo`.

`UNIMP_MODEL` names a model folder or Hub id; without it the quickstart's is used, and made first where there is none.
"""

import os
import sys

from unimp.cli import main

if __name__ == "__main__":
    model = os.environ.get("UNIMP_MODEL")
    sys.exit(main(["demo", "--host", "0.0.0.0", *(["--model", model] if model else [])]))
