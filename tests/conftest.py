"""For every test: one thread, and a place of its own for the code of checkpoints."""

import os
import tempfile

import torch

# Tiny tensors: a second thread only waits, for seconds a step where others use the same cores. The variable is for
# the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# Two processes that load the same checkpoint's code would write the same files. transformers reads this when imported.
MODULES = tempfile.TemporaryDirectory(prefix="checkpoint-code-")
os.environ["HF_MODULES_CACHE"] = MODULES.name
