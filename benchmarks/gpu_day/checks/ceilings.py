"""What this GPU reaches at best, measured: matrix products and copies. Everything else is compared with it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from ..running.record import Missing, Recorder
from ..running.settings import Settings
from .device_clock import time_each

__all__ = ["copy_run", "import_torch", "measure_ceilings", "product_run"]

LARGE, REPEATS, WARMUP = 8192, 30, 10
COPY_NBYTES = 2 << 30
# Tokens of two rows of eight latent frames at 256 x 256, and the model's widths.
TOKENS, WIDTH = 4096, 1152
MODEL_SIZES = {
    "qkv": (TOKENS, WIDTH, 3 * WIDTH),
    "projection": (TOKENS, WIDTH, WIDTH),
    "mlp in": (TOKENS, WIDTH, 4 * WIDTH),
    "mlp out": (TOKENS, 4 * WIDTH, WIDTH),
}


def import_torch(device: str) -> Any:
    """Import torch and see that it has the device.

    Raises:
        Missing: torch is not installed, or sees no GPU.
    """
    try:
        import torch
    except ImportError as error:
        raise Missing(f"torch does not import: {error}") from error
    if device != "cpu" and not torch.cuda.is_available():
        raise Missing(f"torch {torch.__version__} sees no GPU")
    return torch


def measure_ceilings(settings: Settings, record: Recorder) -> None:
    """Record matrix products in three precisions, and the copy bandwidth."""
    torch = import_torch(settings.device)
    side, nbytes = (256, 1 << 20) if settings.rehearse else (LARGE, COPY_NBYTES)
    sizes = {"large": (side, side, side), **({} if settings.rehearse else MODEL_SIZES)}
    for name, (rows, inner, columns) in sizes.items():
        for kind in ("fp16", "tf32", "fp32") if name == "large" else ("fp16",):
            torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
            run = product_run(rows, inner, columns, "float16" if kind == "fp16" else "float32", settings.device)
            ms = _median(run, settings)
            rate = 2 * rows * inner * columns / ms / 1e9
            what = f"{kind} product [{rows}, {inner}] x [{inner}, {columns}], {name}"
            record.add(what, rate, "TFLOP/s", ms=ms, statistic=f"median of {REPEATS} after {WARMUP}")
    torch.backends.cuda.matmul.allow_tf32 = False
    ms = _median(copy_run(nbytes, settings.device), settings)
    record.add("device copy, bytes read and written", 2 * nbytes / ms / 1e9, "TB/s", ms=ms, nbytes=nbytes)


def product_run(rows: int, inner: int, columns: int, dtype: str, device: str) -> Callable[[], Any]:
    """Return a run of a product of random matrices; random, because zeros are faster."""
    import torch

    kind = getattr(torch, dtype)
    a = torch.randn(rows, inner, device=device, dtype=torch.float32).to(kind)
    b = torch.randn(columns, inner, device=device, dtype=torch.float32).to(kind).t()
    out = torch.empty(rows, columns, device=device, dtype=kind)
    return lambda: torch.mm(a, b, out=out)


def copy_run(nbytes: int, device: str) -> Callable[[], Any]:
    """Return a run of a copy between two buffers larger than any cache."""
    import torch

    source = torch.randint(0, 255, (nbytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _median(run: Callable[[], Any], settings: Settings) -> float:
    time_each(run, WARMUP, settings.device)
    return statistics.median(time_each(run, REPEATS, settings.device))
