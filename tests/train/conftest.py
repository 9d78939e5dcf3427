"""One thread for each worker: two tests run at a time."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
