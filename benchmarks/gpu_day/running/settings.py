"""Where the checks find what they need, and how much of it they run; travels to each stage's process as JSON."""

from __future__ import annotations

import ctypes
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .record import Missing

__all__ = ["PACKAGE", "REFERENCE", "ROOT", "Settings", "child_command", "load_model", "need_gpu"]

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parents[1]
# The file of a kit with the errors of ONNX Runtime's CPU provider.
REFERENCE = "onnxruntime_cpu.json"


@dataclass(frozen=True)
class Settings:
    """What all stages share.

    Attributes:
        device: "cuda:0", or "cpu" in a rehearsal.
        rehearse: Whether everything is made small, so that a machine without a GPU finds the typing errors.
        golden: Folder of recorded cases.
        bundles: Folder of the bundles exported from them, ``<case>-<chunk>-<slots>``, and of ``tiny``.
        xl: Folder of the described full-size bundles, ``xl-<depth>``.
        kits: Folder of the unpacked kits; the calls for TensorRT for RTX are in their folders ``rtx``.
        work: Folder for weights, plans and latents; some gigabytes.
        reference: Results of this script with the errors of ONNX Runtime's CPU provider, or None.
        interpreters: The command of the Python that has torch ("main"), TensorRT for RTX ("rtx"), ONNX Runtime
            ("onnxruntime") or TensorRT ("tensorrt"), and the one under memcheck ("memcheck").
        seed: Of weights and latents.
    """

    device: str
    rehearse: bool
    golden: str
    bundles: str
    xl: str
    kits: str
    work: str
    reference: str | None
    interpreters: dict[str, list[str]]
    seed: int = 0

    def to_json(self) -> str:
        """Return the settings as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> Settings:
        """Read what :meth:`to_json` returned."""
        return Settings(**json.loads(text))


def child_command(settings: Settings, interpreter: str, *arguments: str) -> list[str]:
    """Return the command of a process of the run-book, in the interpreter of that name."""
    return [*settings.interpreters[interpreter], str(PACKAGE), "child", *arguments, "--settings", settings.to_json()]


def load_model(path: Path, backend: str, precision: str, device: str, **more: Any) -> Any:
    """Load a bundle as a user does, on the settings' device."""
    import vdmrt

    if device != "cpu":
        more["device"] = device
    return vdmrt.load(path, backend=backend, precision=precision, verify=False, **more)


def need_gpu(settings: Settings, *, also_rehearsing: bool = False) -> None:
    """See that a GPU is there, where one is asked for.

    Args:
        settings: Name the device.
        also_rehearsing: Whether a rehearsal on the CPU cannot do without one either.

    Raises:
        Missing: There is no driver, or it has no GPU.
    """
    if settings.device == "cpu":
        if also_rehearsing:
            raise Missing("this needs a GPU; a rehearsal has none")
        return
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise Missing(f"there is no NVIDIA driver: {error}") from error
    count, code = ctypes.c_int(), driver.cuInit(0)
    if code == 0:
        code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code != 0 or count.value < 1:
        raise Missing(f"the NVIDIA driver has no GPU (code {code}, {count.value} devices)")
