"""A bad option ends with status 2 and one sentence, before a bundle is read or a heavy package imported."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from vdmrt.cli import main

RUN = ["run", "nowhere", "--latents", "nowhere.npy", "--output", "out.npy"]
PERCENT = "'--percentile': wanted a number above 0, of at most 100, got "
OPTIONS = [
    (name, param)
    for name, command in main.commands.items()
    for param in command.params
    if isinstance(param, click.Option)
]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*RUN, "--backend", "foo"], "'foo' is not one of 'auto', 'tensorrt', 'tensorrt-rtx', 'onnxruntime'"),
        ([*RUN, "--device", "foo"], "'--device': device must be auto, cpu, cuda or cuda:N, got 'foo'"),
        ([*RUN, "--backend", "tensorrt", "--device", "cpu"], "tensorrt runs on a GPU only, got the device cpu"),
        ([*RUN, "--precision", "fp64"], "'--precision': 'fp64' is not one of 'fp32', 'fp16'"),
        ([*RUN, "--sampler", "euler"], "'--sampler': 'euler' is not one of 'iddpm', 'ddpm'"),
        ([*RUN, "--chunks", "0"], "'--chunks': 0 is not in the range x>=1"),
        ([*RUN, "--steps", "0"], "'--steps': 0 is not in the range x>=1"),
        ([*RUN, "--given", "0"], "'--given': 0 is not in the range x>=1"),
        ([*RUN, "--given", "2"], "--given must be at least 1 and goes with --video, got 2"),
        ([*RUN, "--threads", "0"], r"'--threads': threads must be 1 <= threads <= \d+, .*, got 0"),
        ([*RUN, "--prefix-noise", "-1"], "'--prefix-noise': -1 is not in the range x>=0"),
        ([*RUN, "--guidance", "nan"], "'--guidance': wanted a number, got 'nan'"),
        ([*RUN, "--fps", "inf"], "'--fps': wanted a number above 0, got 'inf'"),
        ([*RUN, "--seed", "-1"], r"'--seed': wanted a whole number of at least 0 and below 2\*\*64, got '-1'"),
        ([*RUN, "--seed", str(2**64)], r"'--seed': wanted a whole number .* below 2\*\*64, got '18446744073709551616'"),
        ([*RUN, "--text-mask", "mask.npy"], "a text mask requires text embeddings, got only the mask 'mask.npy'"),
        ([*RUN[:-1], "a.avi"], "'--output': 'a.avi' must end in .mp4 or .gif or .npy, got suffix '.avi'"),
        (["demo", "--sky", "1000000"], "'--sky': 1000000 is not in the range 0<=x<=999999"),
        (["demo", "--backend", "foo"], "'--backend': 'foo' is not one of"),
        (["profile", "nowhere", "--percentile", "50,fast"], PERCENT + "'fast'"),
        (["profile", "nowhere", "--percentile", "0"], PERCENT + "'0'"),
        (["profile", "nowhere", "--percentile", "nan"], PERCENT + "'nan'"),
        (["profile", "nowhere", "--duration", "nan"], "'--duration': wanted a number above 0, got 'nan'"),
        (["profile", "nowhere", "--warmup", "-1"], "'--warmup': -1 is not in the range x>=0"),
        (["profile", "nowhere", "--target-fps", "-1"], "'--target-fps': wanted a number above 0, got '-1'"),
        (["profile", "nowhere", "--decoding", "lazy"], "'--decoding': 'lazy' is not one of 'serial'"),
        (["profile", "nowhere", "--fail-above", "nan"], "'--fail-above': wanted a number above 0, got 'nan'"),
        (["profile", "nowhere", "--fail-below", "0"], "'--fail-below': wanted a number above 0, got '0'"),
        (["profile", "nowhere", "--against", "threads=0"], r"threads must be 1 <= threads <= \d+, .*, got 0"),
        (["profile", "nowhere", "--against", "device=foo"], "device must be auto, cpu, cuda or cuda:N, got 'foo'"),
        (["profile", "nowhere", "--against", "guidance=nan"], "guidance must be finite, got nan"),
        (["calibrate", "nowhere", "--data", "x", "--budget", "nan"], "'--budget': wanted a number above 0, got 'nan'"),
        (["calibrate", "nowhere", "--data", "x", "--smooth", "1.5"], "'--smooth': wanted a number of at least 0"),
        (["calibrate", "nowhere", "--data", "x", "--samples", "0"], "'--samples': 0 is not in the range x>=1"),
        (["calibrate", "nowhere", "--data", "x", "--sampler", "foo"], "'--sampler': 'foo' is not one of"),
        (["calibrate", "nowhere"], "--precision int8 observes rollouts and needs clips; name them with --data"),
        (["verify", "nowhere", "--precision", "foo"], "'--precision': 'foo' is not one of"),
        (["verify", "nowhere", "--seeds", "0"], "'--seeds': 0 is not in the range x>=1"),
        (["verify", "nowhere", "--gate", "psnr=nan"], "--gate must be FIGURE=NUMBER, .* got 'psnr=nan'"),
        (["verify", "nowhere", "--report", "no/page.html"], "'no/page.html' cannot be written: there is no folder"),
        (["build", "nowhere", "--gpu", "-1"], "'--gpu': -1 is not in the range x>=0"),
        (["build", "nowhere", "--backend", "foo"], "'--backend': 'foo' is not one of"),
        (["build", "nowhere", "--workspace", "0"], "'--workspace': wanted a size like 4GiB or 512MiB, got '0'"),
        (["build", "nowhere", "--workspace", "9999999999GiB"], "'--workspace': wanted a size like 4GiB"),
        (["inspect", "nowhere", "--speed"], "No such option '?--speed"),
        (["doctor", "now"], "Got unexpected extra argument"),
    ],
)  # fmt: skip
def test_misuse_exits_2_with_a_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, arguments)

    assert result.exit_code == 2, result.output
    assert re.search(f"Error: .*{sentence}", result.stderr), result.stderr
    assert result.stdout == "" and list(tmp_path.iterdir()) == []


def test_every_number_option_has_bounds() -> None:
    bare = [
        f"{name} {param.opts[0]}"
        for name, param in OPTIONS
        if not param.is_flag and type(param.type) in (type(click.INT), type(click.FLOAT))
    ]

    assert bare == []


@pytest.mark.parametrize(
    "arguments", [[*RUN, "--backend", "foo"], ["calibrate", "nowhere", "--data", "x", "--budget", "nan"]]
)
def test_misuse_is_found_before_heavy_packages_are_imported(arguments: list[str], tmp_path: Path) -> None:
    code = f"""
import sys
from vdmrt.cli import main
try:
    main({arguments!r})
except SystemExit as end:
    assert end.code == 2
assert not {{"onnx", "onnxruntime", "torch"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
