"""Bundles that many tests share, exported once a run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from fake_cuda import fake_cuda as fake_cuda
from hypothesis import settings
from tiny import TEXT, TEXT_OPTIONS, TINY, TINY_OPTIONS

from vdmrt.export import export_bundle, random_model

# Whoever starts the tests in the background or with nohup leaves SIGINT or SIGHUP ignored, and the processes of the
# tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# No deadline: the duration of an example says more about the machine than about the code. The same examples in every
# run, so that a failure belongs to the change that was tested; `--hypothesis-profile=explore` draws new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two requests, chunks of 3, 7 slots, 6 steps, mask channel, context of 2, both precisions. Not to be changed."""
    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    return export_bundle(random_model(TINY, 1), folder, TINY_OPTIONS, name="tiny", random_weights=True).path


@pytest.fixture(scope="session")
def text_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text with guidance, absolute positions to 9, no noise input, no context: chunks of 2, 4 slots, 4 steps."""
    folder = tmp_path_factory.mktemp("text") / "bundle"
    return export_bundle(random_model(TEXT, 2), folder, TEXT_OPTIONS, name="text", random_weights=True).path
