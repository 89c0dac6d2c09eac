"""The check that a bundle can be amended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vdmrt.bundle import check_amendable, open_bundle
from vdmrt.errors import BundleError


def test_trying_leaves_nothing(tiny_bundle: Path) -> None:
    before = sorted(tiny_bundle.parent.rglob("*"))

    check_amendable(open_bundle(tiny_bundle), 1 << 20)

    assert sorted(tiny_bundle.parent.rglob("*")) == before


def test_any_size_passes_where_the_system_cannot_reserve(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    before = sorted(tiny_bundle.parent.rglob("*"))

    check_amendable(open_bundle(tiny_bundle), 1 << 60)

    assert sorted(tiny_bundle.parent.rglob("*")) == before


def test_too_large_a_size_is_refused_and_named(tiny_bundle: Path) -> None:
    before = sorted(tiny_bundle.parent.rglob("*"))

    with pytest.raises(BundleError, match="about 1048576 TiB are needed beside the bundle"):
        check_amendable(open_bundle(tiny_bundle), 1 << 60)

    assert sorted(tiny_bundle.parent.rglob("*")) == before
