"""Layer timing: a few chunks run with the backend's profiler on, beside a loaded model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...bundle import Stage
from ...errors import BackendError
from ...runtime.backends.backend import TimesLayers
from ...runtime.session.model import Model
from ..measuring.measurement import Rollout

if TYPE_CHECKING:
    from ...runtime.backends.backend import TimedProgram
    from ...runtime.backends.layer_times import LayerTime
    from ...runtime.backends.stage_source import StageSource
    from ..measuring.settings import Settings

__all__ = ["check_timed", "time_layers"]

_STAGES = (Stage.DENOISE, Stage.FILL)
_CHUNKS = 3


def check_timed(model: Model) -> None:
    """Check that a model's layers can be timed.

    Raises:
        BackendError: The backend has no supported profiler.
    """
    if not all(isinstance(model.program(stage), TimesLayers) for stage in _STAGES):
        raise BackendError(
            "layers can be timed on TensorRT and on ONNX Runtime's CPU provider, but this model runs on "
            f"{model.backend.describe()}; leave out --layers, or choose another --backend"
        )


def time_layers(model: Model, settings: Settings) -> dict[str, list[LayerTime]]:
    """Run a few chunks, so that every layer runs more than once; return the layers of "denoise" and "fill".

    Args:
        model: Loaded model; its lanes are not affected.
        settings: Sampler and steps.

    Raises:
        BackendError: The backend has no supported profiler.
        DeviceError: Memory does not suffice for another lane, or the profiler failed.
    """
    check_timed(model)
    # Frames are not decoded here; the codec's graphs would be loaded again.
    bundle = replace(model.bundle, manifest=replace(model.manifest, codec=None, components={}))
    backend = _TimedBackend(model)
    with Model(bundle, backend, model.precision, cuda_graph=False) as timed:
        rollout = Rollout(timed, replace(settings, decoding="off"))
        with rollout.session:
            rollout.start()
            for _ in range(_CHUNKS):
                rollout.step()
        return {stage: backend.programs[stage].layer_times() for stage in _STAGES}


class _TimedBackend:
    """Wrapper of a model's backend that loads timed programs.

    Attributes:
        programs: Loaded programs, by stage.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self.name, self.device_name = model.backend.name, model.backend.device_name
        self.describe, self.open_device = model.backend.describe, model.backend.open_device
        self.programs: dict[str, TimedProgram] = {}

    def load(self, source: StageSource) -> TimedProgram:
        program = self._model.program(source.stage)
        assert isinstance(program, TimesLayers), "the programs were checked"
        self.programs[source.stage] = program.timed()
        return self.programs[source.stage]

    def close(self) -> None:
        """Do nothing: the model owns the backend."""
