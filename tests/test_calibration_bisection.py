"""Bisection: groups of layers at fault, their cost, and the command that keeps them."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
from calibrated import calibrate_copy
from click.testing import CliRunner, Result

from vdmrt.bundle import FP16, FP16_MIXED, FP32, BundleWriter, Precision, open_bundle
from vdmrt.calibration.choose.bisection import bisect, bisect_request, smallest_cause
from vdmrt.calibration.choose.remedy import remedy_command
from vdmrt.calibration.choose.sensitivity import Bench
from vdmrt.calibration.graph.graph_file import WeightsFile, load_graph, save_graph
from vdmrt.calibration.graph.mixed import MixedRequest, mix_precisions
from vdmrt.calibration.graph.quantization import Quantization
from vdmrt.calibration.observe.data import CalibrationSet
from vdmrt.calibration.verify.metrics import psnr
from vdmrt.calibration.verify.request import VerifyRequest
from vdmrt.cli import main
from vdmrt.errors import CalibrationError

NOTHING = CalibrationSet((), (), "")
FLOAT = Quantization("int8", "max", {}, {})


@pytest.fixture(scope="module")
def cancelling(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle with a difference of two large numbers in one block: exact in float32, lost in FP16."""
    path = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("cancelling") / "bundle"))
    bundle = open_bundle(path)
    graphs = {}
    for precision, stages in bundle.manifest.graphs.items():
        opened = {stage: load_graph(bundle, graph) for stage, graph in stages.items()}
        weights = WeightsFile(path / "graphs" / f"weights.cancelling-{precision}.bin")
        for stage, graph in opened.items():
            bias, closing = (np.array(graph.weights[f"blocks.0.mlp.{name}"]) for name in ("fc1.bias", "fc2.weight"))
            bias[3:5] = 20_000
            closing[:, 3], closing[:, 4] = 1.0, -1.0
            graph.weights |= {"blocks.0.mlp.fc1.bias": bias, "blocks.0.mlp.fc2.weight": closing}
            save_graph(graph, path / "graphs" / f"{stage}.cancelling-{precision}.onnx", weights)
        writer = BundleWriter(path)
        graphs[precision] = {
            stage: dataclasses.replace(
                graph,
                file=writer.record(f"graphs/{stage}.cancelling-{precision}.onnx"),
                weights=writer.record(f"graphs/{weights.path.name}"),
            )
            for stage, graph in stages.items()
        }
    BundleWriter(bundle.path).finish(dataclasses.replace(bundle.manifest, graphs=graphs))
    return path


def test_a_block_that_loses_accuracy_in_fp16_is_named_with_its_cost(cancelling: Path) -> None:
    found = bisect(open_bundle(cancelling), FP16, NOTHING, 45.0, FLOAT, threads=1)

    assert found.groups == ("blocks.0.mlp",)
    assert found.before < 45 <= found.after
    assert 0 < found.share < 0.5
    assert 1 < found.slower < 1.5
    assert found.weights_nbytes == 2 * 2 * 32 * 128
    assert "at fault: blocks.0.mlp" in found.describe()


def test_a_model_that_is_accurate_in_fp16_has_no_group_at_fault(tiny_bundle: Path) -> None:
    found = bisect(open_bundle(tiny_bundle), FP16, NOTHING, 45.0, FLOAT, threads=1)

    assert (found.groups, found.tried, found.share, found.slower) == ((), 1, 0.0, 1.0)
    assert found.before > 45
    assert "no group is at fault" in found.describe()


def test_the_command_bisects_a_quantized_precision(tiny_bundle: Path, tmp_path: Path) -> None:
    calibrate_copy(tiny_bundle, tmp_path, kv="int8")
    command = ["verify", str(tmp_path / "bundle"), "--precision", "int8-kv8", "--chunks", "1", "--seeds", "1"]

    done = CliRunner().invoke(main, [*command, "--threads", "1", "--gate", "teacher-psnr=90", "--bisect", "--json"])

    told = json.loads(done.stdout)["bisection"]
    assert done.exit_code == 3, done.output
    assert told["before"] < 90 <= told["after"]
    assert told["groups"]


def test_the_command_that_keeps_groups_repeats_the_options_of_the_calibration(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    calibrate_copy(tiny_bundle, tmp_path, kv="int8", method="max", keep=("blocks.1.attn.*",), keep_fill=True)
    bundle = open_bundle(tmp_path / "bundle")
    layers = ["blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "blocks.0.proj"]

    both = remedy_command(
        bundle, Precision.parse("int8-kv8"), ["blocks.0.mlp"], layers, cache=True, data=Path("my clips")
    )
    cache = remedy_command(bundle, Precision.parse("int8-fp16-kv8"), ["blocks.0"], layers, cache=False, data=None)

    assert both == (
        f"vdmrt calibrate {bundle.path} --data 'my clips' --precision int8 --keep 'blocks.1.attn.*' "
        "--keep 'blocks.0.mlp.*' --samples 12 --method max --keep-fill"
    )
    # A pattern for the group would match the whole block.
    assert "--kv int8 --keep 'blocks.1.attn.*' --keep blocks.0.proj --samples" in cache
    assert "--data CLIPS" in cache


def test_a_report_older_than_an_option_has_its_default(tiny_bundle: Path, tmp_path: Path) -> None:
    calibrate_copy(tiny_bundle, tmp_path)
    bundle = open_bundle(tmp_path / "bundle")
    report = next(one.report for one in bundle.manifest.calibrations if one.precision == Precision.parse("int8"))
    told = json.loads(bundle.locate(report).read_text())
    del told["options"]["rounding"]
    text = json.dumps(told)
    bundle.locate(report).write_text(text + " " * (report.nbytes - len(text)))

    command = remedy_command(
        bundle, Precision.parse("int8"), ["blocks.0.mlp"], ["blocks.0.mlp.fc1"], cache=False, data=None
    )

    assert command.endswith("--precision int8 --keep 'blocks.0.mlp.*' --samples 12")


def test_no_command_keeps_the_groups_of_a_precision_with_only_an_8_bit_cache(tiny_bundle: Path, tmp_path: Path) -> None:
    calibrate_copy(tiny_bundle, tmp_path, precision="none", kv="int8")

    assert (
        remedy_command(open_bundle(tmp_path / "bundle"), Precision.parse("fp32-kv8"), [], [], cache=True, data=None)
        == ""
    )


def test_the_command_for_fp16_makes_it_meet_the_bound(cancelling: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(cancelling, tmp_path / "the bundle"))
    told = json.loads(missed(bundle, 45, "--gate", "largest-fp16=1").stdout)["bisection"]
    assert told["remedy"] == f"vdmrt calibrate '{bundle}' --precision fp16 --keep 'blocks.0.mlp.*'"

    made = CliRunner().invoke(main, shlex.split(told["remedy"])[1:])

    assert made.exit_code == 0, made.output
    found = bisect(open_bundle(bundle), FP16_MIXED, NOTHING, 45.0, FLOAT, threads=1)
    assert found.groups == ()
    assert found.before >= 45 > told["before"]


def test_the_command_for_a_mixed_precision_keeps_the_layers_that_it_keeps(cancelling: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(cancelling, tmp_path / "bundle"))
    mix_precisions(MixedRequest(path, ("blocks.1.attn.*",)))

    found = bisect_request(
        VerifyRequest(bundle=path, precision=FP16_MIXED, chunks=1, seeds=1, threads=1, gates={"teacher-psnr": 45.0})
    )

    assert found.groups == ("blocks.0.mlp",)
    assert found.remedy.endswith("--precision fp16 --keep 'blocks.1.attn.*' --keep 'blocks.0.mlp.*'")
    assert found.describe().endswith(f"to keep them: {found.remedy}")


def test_a_bisection_reports_its_progress(cancelling: Path) -> None:
    told: list[tuple[int, int]] = []

    found = bisect(
        open_bundle(cancelling), FP16, NOTHING, 45.0, FLOAT, threads=1, on_progress=lambda *far: told.append(far)
    )

    assert [done for done, _ in told] == list(range(1, found.tried + 1))
    assert all(done < total for done, total in told)


def test_ctrl_c_stops_the_bisection_but_keeps_the_verdict(
    cancelling: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Path(shutil.copytree(cancelling, tmp_path / "bundle"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)

    def interrupt(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bench, "measure_graphs", interrupt)
    done = missed(bundle, 1000)
    asked = CliRunner().invoke(
        main, ["verify", str(bundle), "--precision", "fp16", "--chunks", "1", "--seeds", "1", "--bisect"]
    )

    assert asked.exit_code == 130
    assert "fp16 against fp32, 1 rollout of 1 chunk" in asked.stdout
    assert done.exit_code == 3, done.output
    assert "the bisection found no group: it was stopped" in done.stderr
    assert json.loads(done.stdout)["missed"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
def test_a_signal_during_the_bisection_ends_the_command_after_the_verdict(
    cancelling: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: list[str]
) -> None:
    bundle = Path(shutil.copytree(cancelling, tmp_path / "bundle"))
    command = ["verify", str(bundle), "--precision", "fp16", "--chunks", "1", "--seeds", "1", "--threads", "1"]

    def terminate(*_: object) -> float:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the signal was ignored")

    monkeypatch.setattr(Bench, "measure_graphs", terminate)
    done = CliRunner().invoke(main, [*command, "--gate", "teacher-psnr=1000", *as_json])

    assert done.exit_code == 143, done.output
    assert done.stderr.endswith("Interrupted by SIGTERM.\n")
    assert json.loads(done.stdout)["missed"] if as_json else "1 of 1 gate missed" in done.stdout


def missed(bundle: Path, bound: float, *more: str) -> Result:
    command = ["verify", str(bundle), "--precision", "fp16", "--chunks", "1", "--seeds", "1", "--threads", "1"]
    return CliRunner().invoke(main, [*command, "--gate", f"teacher-psnr={bound}", "--json", *more])


def test_fp16_that_misses_a_gate_is_bisected_by_default(cancelling: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(cancelling, tmp_path / "bundle"))

    done = missed(bundle, 1000)
    left_out = missed(bundle, 1000, "--no-bisect")

    assert (done.exit_code, left_out.exit_code) == (3, 3)
    assert "bisecting, which takes a while; Ctrl-C stops it" in done.stderr
    assert "the bisection found no group: fp16 has" in done.stderr
    assert json.loads(done.stdout)["missed"]
    assert "bisecting" not in left_out.stderr
    assert "bisection" not in json.loads(left_out.stdout)


def test_fp16_with_a_too_large_value_is_bisected_by_default(cancelling: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(cancelling, tmp_path / "bundle"))

    done = missed(bundle, 45, "--gate", "largest-fp16=1")

    assert done.exit_code == 3, done.output
    assert json.loads(done.stdout)["bisection"]["groups"] == ["blocks.0.mlp"]


def test_a_precision_that_cannot_be_bisected_is_refused_with_the_reason(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)

    with pytest.raises(CalibrationError, match="fp32 computes nothing below float32, so there is nothing to bisect"):
        bisect(bundle, FP32, NOTHING, 35.0, FLOAT)
    with pytest.raises(
        CalibrationError, match=r"fp16 has 1\d\d\.\d dB with every group of layers in float32, wanted 151"
    ):
        bisect(bundle, FP16, NOTHING, 151.0, FLOAT, threads=1)


@pytest.mark.parametrize("cause", [[], [0], [6], [2, 3], [0, 3, 6]])
def test_the_smallest_cause_is_found(cause: list[int]) -> None:
    groups = [f"group {place}" for place in range(7)]
    wanted = {groups[place] for place in cause}

    assert smallest_cause(groups, lambda kept: wanted <= set(kept)) == sorted(wanted)
    assert smallest_cause(groups, lambda kept: False) is None


def test_one_group_at_fault_among_many_takes_few_trials() -> None:
    tried: list[int] = []
    groups = [str(place) for place in range(64)]

    def holds(kept: object) -> bool:
        assert isinstance(kept, list)
        tried.append(len(kept))
        return "41" in kept

    assert smallest_cause(groups, holds) == ["41"]
    assert len(tried) <= 2 + 2 * 6


def test_results_that_are_not_finite_have_the_worst_psnr() -> None:
    assert psnr(np.array([np.nan, 1.0]), np.ones(2), 1.0) == 0.0
