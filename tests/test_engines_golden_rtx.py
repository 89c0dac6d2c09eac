"""The graphs of every recorded case, compiled by the real TensorRT for RTX."""

from __future__ import annotations

from pathlib import Path

import golden
import pytest
from golden import Case

from vdmrt.bundle import CACHE_ROLES, FP16, Stage
from vdmrt.engines import build_engines
from vdmrt.export import ExportOptions, export_bundle
from vdmrt.export.checkpoint import load_model
from vdmrt.export.families.ca2vdm.arguments import config_from_arguments


@pytest.mark.parametrize("case", golden.cases(), ids=lambda case: case.name)
def test_a_recorded_case_is_compiled_in_half(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = next(iter(case.config["rollouts"].values()))
    options = ExportOptions(
        precisions=(FP16,),
        chunk_frames=settings["chunk_len"],
        slots=settings["kv_cache_max_seqlen"],
        requests=case.config["rollout_batch"],
    )
    model = load_model(config_from_arguments(case.config["model"]), case.folder)
    bundle = export_bundle(model, tmp_path / "bundle", options, name=case.name)

    engine = build_engines(bundle, backend="tensorrt-rtx", precision=FP16)

    for stage in (Stage.FILL, Stage.DENOISE):
        graph, plan = bundle.manifest.graphs[FP16][stage], engine.plan(stage)
        assert plan.audit is not None and plan.audit.products["fp16"] > 0
        assert sum(sum(forms.values()) for forms in (plan.forms or {}).values()) == sum(graph.calls.values())
        cached = {spec.name for spec in graph.inputs if spec.role in CACHE_ROLES}
        copied = [copy.tensor for copy in plan.audit.cache_copies]
        assert len(copied) == len(set(copied)) and set(copied) <= cached
