"""A CLIP classifier service that keeps learning from unlabeled images.

ONNX Runtime gives a machine an id and notes how it is used from its import on, unless told before not to.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
