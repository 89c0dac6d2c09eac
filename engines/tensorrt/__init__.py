"""TensorRT plans: networks, lowering to older releases, options and the audit."""

from __future__ import annotations
