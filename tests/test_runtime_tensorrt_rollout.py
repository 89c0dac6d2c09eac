"""A whole rollout on TensorRT, recorded: what is set once, what is captured once, and what a step costs in calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorrt_engines import Machinery, clear_outputs, machine_of, tensorrt_machine
from tensorrt_recorder import RELEASES, RTX

import vdmrt
from vdmrt.errors import DeviceError
from vdmrt.runtime import Model

# Exported with a geometry of real size, whose every address is aligned as TensorRT wants it.
SKY = Path(__file__).parents[1] / "examples" / "sky" / "bundle"
CHUNKS, STEPS = 4, 3


@pytest.fixture(params=(*RELEASES, RTX))
def machinery(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machinery]:
    with tensorrt_machine(request.param, SKY, tmp_path, monkeypatch) as found:
        found.recorder.on_enqueue = lambda context, stream: clear_outputs(found, context, stream)
        yield found


def load(machinery: Machinery) -> Model:
    backend = machine_of(machinery.recorder).backend
    return vdmrt.load(machinery.bundle.path, backend=backend, precision="fp16", verify=False)


def roll(model: Model, seed: int = 1) -> list[float]:
    """Run a session and return the largest value of each chunk."""
    geometry = model.manifest.geometry
    with model.session(seed=seed, steps=STEPS) as session:
        session.start(np.zeros((1, *geometry.latent_shape), np.float32))
        return [float(np.abs(chunk.latents).max()) for chunk in session.stream(CHUNKS)]


def test_addresses_are_set_once_and_the_step_is_captured_once(machinery: Machinery) -> None:
    with load(machinery) as model:
        roll(model)
        before = machinery.recorder.calls.copy()
        captures = machinery.cuda.counts()["cuStreamBeginCapture_v2"]
        roll(model, seed=2)

        later = machinery.recorder.calls[len(before) :]
        assert captures == machinery.cuda.counts()["cuStreamBeginCapture_v2"] == 1
        assert [call.name for call in later if call.name.startswith("set_")] == []
        # The denoising steps are replays; what is enqueued anew is one cache fill for each chunk.
        enqueued = [call for call in later if call.name == "execute_async_v3"]
        assert len(enqueued) <= CHUNKS + 1
    assert machinery.cuda.violations() == []


def test_nothing_is_allocated_after_the_first_rollout(machinery: Machinery) -> None:
    with load(machinery) as model:
        roll(model)
        allocated, contexts = machinery.cuda.live().allocated_nbytes, machinery.recorder.alive("IExecutionContext")
        roll(model, seed=2)

        assert machinery.cuda.live().allocated_nbytes == allocated
        assert machinery.recorder.alive("IExecutionContext") == contexts


def test_all_is_given_back_in_order(machinery: Machinery) -> None:
    with load(machinery) as model:
        roll(model)

    deaths = [call.subject.partition("#")[0] for call in machinery.recorder.named("__del__")]
    assert deaths[-1] == "Runtime"
    assert max(i for i, name in enumerate(deaths) if name == "IExecutionContext") < deaths.index("Runtime")
    live = machinery.cuda.live()
    assert (live.allocations, live.pinned, live.streams, live.events, live.graph_execs) == (0, 0, 0, 0, 0)


def test_a_failing_fill_ends_the_session_and_the_model_goes_on(machinery: Machinery) -> None:
    with load(machinery) as model:
        roll(model)
        machinery.recorder.fail("execute_async_v3", returns=False, log="Error Code 1: Cuda Runtime (launch failed)")

        with pytest.raises(DeviceError, match=r"execute_async_v3: Error Code 1: Cuda Runtime \(launch failed\)"):
            roll(model)
        assert len(roll(model)) == CHUNKS
