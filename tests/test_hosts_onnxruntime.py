"""ONNX Runtime is imported only if exactly one distribution provides it."""

from __future__ import annotations

import sys

import pytest

from vdmrt.errors import BackendError
from vdmrt.hosts.cpu import describe_cpu
from vdmrt.hosts.onnxruntime import (
    check_distributions,
    describe_machine,
    find_providers,
    has_provider,
    open_onnxruntime,
)


def test_onnxruntime_has_the_cpu_provider() -> None:
    module = open_onnxruntime("a task")

    assert "CPUExecutionProvider" in module.get_available_providers()
    assert "CPUExecutionProvider" in find_providers()


def test_an_engine_is_bound_to_release_provider_and_cpu() -> None:
    machine = describe_machine(open_onnxruntime("a task"))

    assert (machine.provider, machine.cpu, machine.backend) == ("CPUExecutionProvider", describe_cpu(), "onnxruntime")


def test_an_engine_for_cuda_is_bound_to_no_cpu() -> None:
    machine = describe_machine(open_onnxruntime("a task"), "cuda")

    assert (machine.provider, machine.cpu, machine.backend) == ("CUDAExecutionProvider", "", "onnxruntime")
    assert not has_provider("cuda")


def test_two_distributions_are_refused_with_a_remedy() -> None:
    sentence = (
        "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
        r"run pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'vdmrt\[cuda\]'"
    )

    with pytest.raises(BackendError, match=sentence):
        check_distributions(["onnxruntime", "onnxruntime-gpu"], "a task", "cuda")


def test_no_distribution_is_refused_with_its_extra() -> None:
    sentence = r"a task needs onnxruntime, which is not installed; install it with pip install 'vdmrt\[cpu\]'"

    with pytest.raises(BackendError, match=sentence):
        check_distributions([], "a task")


def test_a_partly_removed_onnx_runtime_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", type(sys)("onnxruntime"))  # its empty folder

    with pytest.raises(BackendError, match="a task needs ONNX Runtime, which does not load: .*__version__.*; see"):
        open_onnxruntime("a task")
    with pytest.raises(ImportError, match="AttributeError: .*get_available_providers"):
        find_providers()
