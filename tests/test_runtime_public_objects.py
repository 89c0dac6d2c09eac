"""What users hold: objects that refuse what would be ignored, and that print as one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vdmrt
from vdmrt.runtime import Noise

OBJECTS = (
    *("model", "session", "chunk", "snapshot", "noise", "timings", "codec", "lane", "settings", "table"),
    *("device_latents", "bundle", "manifest", "geometry"),
)


@pytest.fixture(scope="module")
def objects(tiny_bundle: Path) -> Iterator[dict[str, Any]]:
    """Everything that the API hands out, by name."""
    loaded = vdmrt.load(tiny_bundle, device="cpu", precision="fp32", threads=1)
    with loaded as model, model.session(seed=7, sampler="ddim", steps=2) as session:
        session.start(np.zeros((1, 4, 4, 6), np.float32))
        chunk = session.step()
        yield {
            **{"model": model, "session": session, "chunk": chunk, "snapshot": session.snapshot()},
            **{"noise": Noise(initial=np.zeros((3, 4, 4, 6))), "timings": chunk.timings, "codec": model.codec},
            **{"lane": session.lane, "settings": session.settings, "table": session.table},
            **{"device_latents": chunk.device_latents, "bundle": model.bundle},
            **{"manifest": model.manifest, "geometry": model.manifest.geometry},
        }


@pytest.mark.parametrize("name", OBJECTS)
def test_an_attribute_that_is_not_there_cannot_be_set(objects: dict[str, Any], name: str) -> None:
    with pytest.raises(AttributeError, match="text"):
        objects[name].text = "a clear sky"


@pytest.mark.parametrize(
    ("name", "attribute"),
    [
        *(("session", attribute) for attribute in ("seed", "settings", "table", "lane", "request", "closed")),
        *(("model", attribute) for attribute in ("precision", "codec", "backend", "bundle", "manifest")),
        *(("codec", attribute) for attribute in ("kind", "picture_size")),
        *(("lane", attribute) for attribute in ("geometry", "device", "cache", "graphs_id", "lock")),
        *(("device_latents", attribute) for attribute in ("memory", "address", "shape", "dtype")),
        *(("chunk", "latents"), ("noise", "initial"), ("snapshot", "written"), ("timings", "total_ms")),
    ],
)
def test_what_would_have_no_effect_cannot_be_set(objects: dict[str, Any], name: str, attribute: str) -> None:
    with pytest.raises(AttributeError):
        setattr(objects[name], attribute, None)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("model", "Model('tiny', precision='fp32', backend='onnxruntime', device='host', sessions=1, closed=False)"),
        ("session", "Session(seed=7, sampler='ddim', steps=2, next_latent_frame=4, closed=False)"),
        ("codec", "PictureCodec('preview', picture_size=(32, 48))"),
        ("noise", "Noise(initial=given, steps=drawn, prefix=drawn)"),
        ("snapshot", "Snapshot(precision='fp32', seed=7, written=4, chunks=1, tensors=27648 bytes)"),
        ("device_latents", "DeviceArray(float32 [3, 4, 4, 6] on host)"),
    ],
)
def test_an_object_prints_as_one_line(objects: dict[str, Any], name: str, line: str) -> None:
    assert repr(objects[name]) == line


def test_a_chunk_prints_as_one_line_without_its_numbers(objects: dict[str, Any]) -> None:
    total_ms = objects["chunk"].timings.total_ms

    assert repr(objects["chunk"]) == (
        f"Chunk(index=0, first_latent_frame=1, latents=float32 [3, 4, 4, 6], total_ms={total_ms:.1f})"
    )
