"""For every test: one thread."""

import os

import torch

# Tiny tensors: a second thread only waits, for seconds a step where others use the same cores. The variable is for
# the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
