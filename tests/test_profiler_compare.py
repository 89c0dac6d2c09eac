"""Comparisons by alternating chunks: equal contenders, and differences of known size."""

from __future__ import annotations

import dataclasses
from collections import Counter
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
from delayed import delayed_model

from vdmrt.bundle import FP32
from vdmrt.profiler import Settings, profile
from vdmrt.profiler.analysis.compare import (
    Side,
    compare,
    parse_other,
    stay_open,
)
from vdmrt.runtime import Model, load

DELAY = 0.04


def settings(bundle: Path) -> Settings:
    """Return quick settings."""
    return Settings(bundle, precision=FP32, sampler="ddim", steps=1, chunks=3, warmup=0, decoding="off", roofline=False)


def test_the_interval_of_equal_contenders_contains_1(tiny_bundle: Path) -> None:
    with load(tiny_bundle, precision="fp32") as model:
        thing = Side(settings(tiny_bundle), stay_open(model))
        trials = [compare(thing, thing, what="itself", pairs=16) for _ in range(20)]

    held = sum(1.0 in trial.ratios[0].interval for trial in trials)
    assert held >= 18
    assert all(trial.ratios[0].interval.confidence >= 0.99 for trial in trials)


def test_a_difference_is_found_with_its_size(tiny_bundle: Path) -> None:
    def quick(stage: str, run: int) -> float:
        return DELAY if stage == "denoise" else 0.0

    def slow(stage: str, run: int) -> float:
        return 1.5 * DELAY if stage == "denoise" else 0.0

    with delayed_model(tiny_bundle, quick) as one, delayed_model(tiny_bundle, slow) as another:
        sides = [Side(settings(tiny_bundle), stay_open(model)) for model in (one, another)]
        found = compare(*sides, what="slow", pairs=12)

    chunk, step, fill = found.ratios
    assert (found.pairs, found.rounds) == (16, 8)
    assert step.differs and step.interval.low > 1
    assert step.other - step.this == pytest.approx(1e3 * DELAY / 2, rel=0.15)
    assert chunk.differs
    assert fill.what == "cache fill"


def test_each_round_opens_both_again_and_alternates_the_order(tiny_bundle: Path) -> None:
    opened: list[str] = []

    def open_as(name: str) -> AbstractContextManager[Model]:
        opened.append(name)
        return load(tiny_bundle, precision="fp32", verify=False)

    found = compare(
        *(Side(settings(tiny_bundle), partial(open_as, name)) for name in ("this", "other")), what="itself", pairs=1
    )

    assert (found.rounds, Counter(opened)) == (8, {"this": 8, "other": 8})
    assert Counter(opened[::2]) == {"this": 4, "other": 4}


def test_chunks_of_other_lengths_are_compared_by_latent_frame(tiny_bundle: Path, text_bundle: Path) -> None:
    with load(tiny_bundle) as one, load(text_bundle) as another:
        sides = (
            Side(settings(tiny_bundle), stay_open(one)),
            Side(settings(text_bundle), stay_open(another)),
        )
        found = compare(*sides, what="text", pairs=1)

    assert found.ratios[0].what == "latent frame, codec excluded"


def test_a_profile_against_other_settings_contains_the_comparison(tiny_bundle: Path) -> None:
    report = profile(settings(tiny_bundle), against="precision=fp16,steps=3")

    assert report.comparison is not None
    assert report.comparison.other == "precision=fp16,steps=3"
    assert report.comparison.ratios[0].ratio > 1.2


def test_a_folder_is_a_bundle_and_the_rest_are_settings(tmp_path: Path) -> None:
    mine = settings(Path("bundle"))

    assert parse_other(mine, "elsewhere") == dataclasses.replace(mine, bundle=Path("elsewhere"))
    assert parse_other(mine, "steps=4,backend=onnxruntime,threads=1") == dataclasses.replace(
        mine, steps=4, backend="onnxruntime", threads=1
    )
    assert parse_other(
        mine, "engine=off,cuda-graph=no,guidance=2.5,lean-runtime=a.so,device=cpu"
    ) == dataclasses.replace(
        mine, use_engine=False, cuda_graph=False, guidance=2.5, lean_runtime=Path("a.so"), device="cpu"
    )
    odd = tmp_path / "a=b"
    odd.mkdir()
    assert parse_other(mine, str(odd)).bundle == odd


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed=9", "--against takes a bundle, or bundle, backend, .*'speed=9'"),
        ("steps=few", "--against steps must be a number, got 'few'"),
        ("engine=", "--against engine must be on or off, got ''"),
        ("precision=foo", "--against precision must be one of fp32, fp16, .*, got 'foo'"),
        ("backend=foo", "backend must be auto or one of tensorrt, tensorrt-rtx, onnxruntime, got 'foo'"),
        ("sampler=foo", "sampler must be one of iddpm, .*, got 'foo'"),
        ("steps=0", "steps must be at least 1, got 0"),
        ("guidance=nan", "guidance must be finite, got nan"),
    ],
)
def test_invalid_other_settings_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_other(settings(Path("bundle")), text)
