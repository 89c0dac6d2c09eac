"""A whole calibration: resumed, repeated, refused, and run afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibrated import calibrate_copy, tiny_latents

import vdmrt
from vdmrt.bundle import FP16, FP32, Precision, open_bundle
from vdmrt.calibration.calibrating import CalibrationRequest, calibrate
from vdmrt.calibration.choose.speed import Judge
from vdmrt.calibration.graph.formats import FORMATS
from vdmrt.calibration.observe import observation, rollouts
from vdmrt.calibration.observe.data import CalibrationSet, read_set
from vdmrt.calibration.observe.observation import Observation
from vdmrt.calibration.observe.rollouts import plan_rollouts
from vdmrt.calibration.observe.statistics import ChannelStatistics
from vdmrt.errors import BundleError, CalibrationError, MediaError, SessionError


@pytest.fixture
def copied(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def digests(bundle: Path) -> dict[str, str]:
    return {artifact.file: artifact.sha256 for artifact in open_bundle(bundle).manifest.artifacts()}


def test_the_same_bundle_data_and_seed_give_the_same_bytes(tiny_bundle: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        calibrate_copy(tiny_bundle, tmp_path / name)

    one, other = (digests(tmp_path / name / "bundle") for name in ("one", "other"))

    assert one == other
    assert "graphs/denoise.int8.onnx" in one
    open_bundle(tmp_path / "one" / "bundle").verify()


def test_an_interrupted_calibration_resumes_after_its_last_whole_rollout(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninterrupted = tmp_path / "uninterrupted"
    uninterrupted.mkdir()
    calibrate_copy(copied, uninterrupted, samples=30)
    run: Callable[..., None] = rollouts.run_rollout
    ran: list[object] = []

    def stopping(*given: object, **options: object) -> None:
        if len(ran) == 1:
            raise KeyboardInterrupt
        ran.append(given[2])
        run(*given, **options)

    monkeypatch.setattr(observation, "run_rollout", stopping)
    with pytest.raises(KeyboardInterrupt):
        calibrate_copy(copied, tmp_path, samples=30)
    kept = list((copied / "calibration").glob("observation-*.npz"))
    resumed: list[int] = []

    def noting(*given: Any, **options: object) -> None:
        resumed.append(given[2].index)
        run(*given, **options)

    monkeypatch.setattr(observation, "run_rollout", noting)
    calibrate_copy(copied, tmp_path, samples=30)

    assert len(kept) == 1
    assert resumed[0] == 1
    assert digests(copied) == digests(uninterrupted / "bundle")
    assert not list((copied / "calibration").glob("observation-*.npz"))


def test_statistics_are_loaded_as_they_were_saved_and_a_broken_file_is_ignored(tmp_path: Path) -> None:
    seen = Observation()
    one = seen.cache.setdefault("k.0", ChannelStatistics.empty(3))
    rows = np.ones((4, 3), np.float32)
    one.add(rows, amax=rows[0], mean=rows[0])
    seen.save(tmp_path / "seen.npz")

    found = Observation.load(tmp_path / "seen.npz")

    assert (found.cache["k.0"].count, found.cache["k.0"].amax.tolist()) == (1, [1, 1, 1])
    (tmp_path / "broken.npz").write_bytes(b"PK no")
    assert observation._begun(tmp_path / "broken.npz").done == 0


def test_rollouts_cover_every_state_of_the_cache(copied: Path, tmp_path: Path) -> None:
    summary = calibrate_copy(copied, tmp_path, samples=30)

    assert {name.split(", ")[1] for name in summary.strata if name.startswith("fill")} >= {
        "empty",
        "filling",
        "wrapped",
    }
    assert {name.split(", ")[1] for name in summary.strata if name.startswith("denoise")} == {
        "filling", "full", "wrapped"
    }  # fmt: skip
    assert len({name.split(", ")[2] for name in summary.strata if name.startswith("denoise")}) == 3


def test_a_plan_has_the_requested_samples(tiny_bundle: Path) -> None:
    geometry = open_bundle(tiny_bundle).manifest.geometry
    data = CalibrationSet((np.zeros((7, 4, 4, 6), np.float32),), ("a",), "0")

    planned = plan_rollouts(geometry, data, 40, 6)

    assert 3 * sum(rollout.chunks for rollout in planned) >= 40
    assert [rollout.lead for rollout in planned[:2]] == [0, 1]
    with pytest.raises(CalibrationError, match="--samples must be at least 1, got 0"):
        plan_rollouts(geometry, data, 0, 6)


def test_a_model_with_text_and_guidance_is_calibrated(text_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "text.npy", np.ones((3, 8), np.float32))
    np.save(tmp_path / "data.npy", np.zeros((1, 4, 4, 4, 4), np.float32))
    bundle = Path(shutil.copytree(text_bundle, tmp_path / "bundle"))
    request = CalibrationRequest(
        bundle, tmp_path / "data.npy", samples=4, sampler="ddim", text=tmp_path / "text.npy", threads=1
    )

    summary = calibrate(request)

    assert summary.precisions[0] == Precision.parse("int8")
    assert any("cross_attn" in name for name in open_scales(bundle))


def open_scales(bundle: Path) -> list[str]:
    return list(json.loads((bundle / "calibration" / "int8" / "scales.json").read_text())["linears"])


@pytest.mark.parametrize("precision", ["int8", "int8-fp16", "fp8", "int8-kv8", "fp32-kvf8", "int8-kvf8", "fp8-kvf8"])
def test_added_precisions_run_and_stay_close_to_float32(tiny_bundle: Path, tmp_path: Path, precision: str) -> None:
    parsed = Precision.parse(precision)
    kind = "none" if parsed.linears == FP32.linears else parsed.linears
    calibrate_copy(tiny_bundle, tmp_path, precision=kind, kv=parsed.cache)
    first = np.load(tmp_path / "latents.npy")[0, :4]

    made = {}
    for wanted in ("fp32", precision):
        with vdmrt.load(tmp_path / "bundle", precision=wanted, threads=1) as model, model.session(seed=3) as session:
            session.start(first)
            made[wanted] = session.step().latents
            assert session.cache()[0].dtype == cache_type(model.precision)

    error = np.linalg.norm(made[precision] - made["fp32"]) / np.linalg.norm(made["fp32"])
    assert 0 < error < 0.1


def cache_type(precision: Precision) -> type:
    floating = np.float16 if precision.around == FP16.around else np.float32
    return {"int8": np.int8, "fp8": np.uint8}.get(precision.cache or "", floating)


def test_an_fp8_cache_holds_the_keys_and_values_in_bytes_of_e4m3(tiny_bundle: Path, tmp_path: Path) -> None:
    calibrate_copy(tiny_bundle, tmp_path, precision="none", kv="fp8")
    scales = json.loads((tmp_path / "bundle" / "calibration" / "kvf8" / "scales.json").read_text())["cache"]
    first = np.load(tmp_path / "latents.npy")[0, :4]

    held = {}
    for precision in ("fp32", "fp32-kvf8"):
        with vdmrt.load(tmp_path / "bundle", precision=precision, threads=1) as model, model.session(seed=3) as session:
            session.start(first)
            held[precision] = session.cache()[0]

    for (layer, part), exact in zip(np.ndindex(2, 2), held["fp32"].reshape(4, -1), strict=True):
        scale = scales[f"{'kv'[part]}.{layer}"]["scale"]
        stored = FORMATS["fp8"].decode(held["fp32-kvf8"][layer, part].reshape(-1)) * scale
        # Three bits of mantissa round by a sixteenth at most; what a layer reads was rounded before.
        assert np.abs(stored - exact).max() < np.abs(exact).max() / 8
        assert 0 < np.linalg.norm(stored - exact) < 0.05 * np.linalg.norm(exact)


def test_a_snapshot_of_an_fp8_cache_can_be_resumed(tiny_bundle: Path, tmp_path: Path) -> None:
    calibrate_copy(tiny_bundle, tmp_path, precision="none", kv="fp8")
    with vdmrt.load(tmp_path / "bundle", precision="fp32-kvf8", threads=1) as model:
        with model.session(seed=3) as session:
            session.start(np.load(tmp_path / "latents.npy")[0, :4])
            snapshot = session.snapshot()
            file = snapshot.save(tmp_path / "here.safetensors")
            wanted = session.step().latents
        with model.restore(file) as session:
            assert np.array_equal(session.step().latents, wanted)
        snapshot.tensors["cache"][0, 0, 0, 0, 0, 0] = 0x7F  # NaN in E4M3
        with pytest.raises(SessionError, match="'cache' contains NaN or Inf"):
            model.restore(snapshot)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 4, 4, 6), np.float32), "a clip needs 3 latent frames or more, found 2"),
        (np.zeros((5, 4, 8, 8), np.float32), r"wanted clips \[n, 4, 4, 6\], found float32 \[5, 4, 8, 8\]"),
        (np.zeros((5, 9, 9, 3), np.uint8), r"wanted clips \[n, 32, 48, 3\], found uint8"),
        (np.zeros((5, 4, 4, 6), bool), "the data is of another model"),
    ],
)
def test_a_clip_of_another_model_is_refused(tiny_bundle: Path, tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "clip.npy", array)

    with vdmrt.load(tiny_bundle) as model, pytest.raises(CalibrationError, match=message):
        read_set(tmp_path / "clip.npy", model)


def test_other_files_of_a_folder_are_named_and_ignored(
    tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.save(tmp_path / "clip.npy", np.zeros((5, 4, 4, 6), np.float32))
    (tmp_path / "notes.txt").write_text("by the sea")

    with vdmrt.load(tiny_bundle) as model:
        assert read_set(tmp_path, model).files == ("clip.npy",)

    assert "not read, because they are not clips: notes.txt" in caplog.text


def test_nan_and_files_without_an_array_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "nan.npy", np.full((5, 4, 4, 6), np.nan, np.float32))
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty").mkdir()

    with vdmrt.load(tiny_bundle) as model:
        with pytest.raises(MediaError, match=r"nan\.npy"):
            read_set(tmp_path / "nan.npy", model)
        with pytest.raises(MediaError, match="is not an array of numbers"):
            read_set(tmp_path / "text.npy", model)
        with pytest.raises(CalibrationError, match="is a folder without clips"):
            read_set(tmp_path / "empty", model)
        np.save(tmp_path / "none.npy", np.zeros((0, 5, 4, 4, 6), np.float32))
        with pytest.raises(CalibrationError, match=r"none\.npy' contains no clip"):
            read_set(tmp_path / "none.npy", model)


def test_constant_data_can_be_calibrated(copied: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "zeros.npy", np.zeros((1, 6, 4, 4, 6), np.float32))

    summary = calibrate(CalibrationRequest(copied, tmp_path / "zeros.npy", samples=3, threads=1))

    assert summary.precisions == (Precision.parse("int8"), Precision.parse("int8-fp16"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": ("blocks.9.*",)}, "matches no linear"),
        ({"smooth": 2.0}, r"--smooth must be 0 \(off\) to 1, got 2"),
        ({"precision": "fp8", "method": "entropy"}, "is for INT8's uniform levels"),
        ({"samples": 0}, "--samples must be at least 1"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_and_the_bundle_is_unchanged(
    copied: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    before = digests(copied)

    with pytest.raises(CalibrationError, match=message):
        calibrate_copy(copied, tmp_path, **options)

    assert digests(copied) == before


def test_a_cache_alone_needs_the_option_for_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs --kv int8 or fp8"):
        CalibrationRequest(tmp_path, tmp_path, precision="none")


@pytest.mark.parametrize("budget", [float("nan"), float("inf"), 0.0])
def test_a_budget_that_is_not_positive_and_finite_is_refused_before_any_search(tmp_path: Path, budget: float) -> None:
    with pytest.raises(ValueError, match=f"--budget must be a finite number of dB above 0, got {budget}"):
        CalibrationRequest(tmp_path, tmp_path, budget=budget)


def test_a_precision_that_was_not_made_says_how_to_make_it(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="not 'int8'; make it with vdmrt calibrate"):
        vdmrt.load(tiny_bundle, precision="int8")


def test_calibrating_again_replaces_graphs_and_removes_measured_results(tiny_bundle: Path, tmp_path: Path) -> None:
    calibrate_copy(tiny_bundle, tmp_path)
    first = digests(tmp_path / "bundle")
    calibrate_copy(tiny_bundle, tmp_path, method="max", smooth=0.0)

    again = open_bundle(tmp_path / "bundle")

    again.verify()
    assert [one.precision for one in again.manifest.calibrations] == [
        Precision.parse("int8"),
        Precision.parse("int8-fp16"),
    ]
    assert digests(tmp_path / "bundle")["calibration/int8/scales.json"] != first["calibration/int8/scales.json"]


def test_migration_is_used_where_channels_are_outliers() -> None:
    from vdmrt.calibration.graph.formats import FORMATS
    from vdmrt.calibration.graph.linears import Linear
    from vdmrt.calibration.graph.quantization import make_quantization

    drawn = np.random.default_rng(11)
    rows = drawn.standard_normal((512, 32)).astype(np.float32)
    rows[:, 3] *= 60
    seen = ChannelStatistics.empty(32)
    seen.add(rows, amax=np.abs(rows).max(0), mean=rows.mean(0))
    weight = drawn.standard_normal((16, 32)).astype(np.float32)
    linear = Linear("a.fc", "node", "x", "a.fc.weight", None, 16, 32)

    def products(smooth: float) -> float:
        made = make_quantization(
            {"denoise": {"a.fc": seen}}, {"denoise": [linear]}, {"a.fc": "a.fc"}, {"a.fc": weight},
            kind=FORMATS["int8"], method="max", smooth=smooth, rounding="nearest",
        )  # fmt: skip
        site, scales = made.sites["a.fc"], made.linears["a.fc"]
        assert (site.migration is not None) == (smooth > 0)
        factors = np.ones(32) if site.migration is None else np.array(site.migration)
        step = site.scales["denoise"]
        inputs = FORMATS["int8"].decode(FORMATS["int8"].encode(rows * factors / step)) * step
        row = np.array(scales.weight)[:, None]
        stored = FORMATS["int8"].decode(made.codes["a.fc"]) * row
        return float(np.linalg.norm(inputs @ stored.T - rows @ weight.T))

    assert products(0.5) < 0.6 * products(0.0)


def test_the_command_prints_a_summary(copied: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from vdmrt.cli import main

    np.save(tmp_path / "data.npy", np.random.default_rng(6).standard_normal((5, 4, 4, 6)).astype(np.float32))
    options = ["--data", str(tmp_path / "data.npy"), "--samples", "3", "--threads", "1", "--keep-fill", "--json"]
    options += ["--accept-slower"]

    result = CliRunner().invoke(main, ["calibrate", str(copied), *options])

    told = json.loads(result.stdout)
    fill = open_bundle(copied).manifest.graphs[Precision.parse("int8")]["fill"]
    assert (result.exit_code, told["precisions"]) == (0, ["int8", "int8-fp16"])
    assert b"QuantizeLinear" not in open_bundle(copied).locate(fill.file).read_bytes()
    refused = CliRunner().invoke(main, ["calibrate", str(copied), *options, "--keep", "nothing*"])
    assert (refused.exit_code, "matches no linear" in refused.stderr) == (1, True)


def test_every_long_phase_shows_its_progress_to_the_end(copied: Path, tmp_path: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}

    @contextmanager
    def show(title: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: seen.setdefault(title, []).append((done, total))

    request = CalibrationRequest(copied, tiny_latents(tmp_path), samples=3, threads=1)
    calibrate(request, judge=Judge(1, True, show), show=show)

    assert list(seen) == [
        "observing, denoising steps",
        "rounding, linears",
        "writing, precisions",
        "timing int8 against fp32, chunks",
    ]
    assert all(calls[-1][0] == calls[-1][1] for calls in seen.values())


def test_the_summary_reports_the_actual_number_of_samples(copied: Path, tmp_path: Path) -> None:
    summary = calibrate(CalibrationRequest(copied, tiny_latents(tmp_path), samples=2, threads=1))

    denoise, fill = (
        sum(count for name, count in summary.strata.items() if name.startswith(stage)) for stage in ("denoise", "fill")
    )
    told = f"observed {denoise} denoising runs and {fill} cache fills in 1 whole rollout, the fewest with"
    assert told in summary.describe()
    assert denoise > 2


def test_shortcomings_of_a_small_set_are_reported(tiny_bundle: Path) -> None:
    geometry = open_bundle(tiny_bundle).manifest.geometry
    short = CalibrationSet((np.zeros((5, 4, 4, 6), np.float32),), (), "")
    enough = CalibrationSet((np.zeros((geometry.slots, 4, 4, 6), np.float32),) * 4, (), "")

    few, frames = short.shortcomings(geometry)

    assert few.startswith("the calibration set has 1 clip; 4 or more of different content")
    assert frames.startswith("the longest clip has 5 latent frames, and 7 fill the cache")
    assert enough.shortcomings(geometry) == []
