"""Where Triton's kernels run: on the GPU where there is one, elsewhere in Triton's interpreter.

Imported before anything that imports Triton, which reads the switch when it is imported.
"""

import os

import torch

IS_GPU = torch.cuda.is_available()
if not IS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"
