"""Training of the sky's two models: ``train.py codec``, then ``train.py transformer``."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from codec_training import CodecTraining
from curves import draw_curves
from transformer_training import TransformerTraining

_CHECKPOINT_SECONDS = 300


@click.group()
def main() -> None:
    """Train the picture autoencoder, then the transformer on its latents.

    Both continue from their checkpoint, and write their loss curves beside it.
    """


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of both stages."""
    for decorate in (
        click.option("--threads", default=2, show_default=True, help="Threads on the CPU."),
        click.option("--device", default="cpu", show_default=True, help="cpu or cuda."),
        click.option("--seed", default=0, show_default=True, help="Seed of weights, data and noise."),
        click.option(
            "--output",
            type=click.Path(path_type=Path),
            default=Path("runs"),
            show_default=True,
            help="Folder of checkpoints.",
        ),
    ):
        command = decorate(command)
    return command


@main.command()
@click.option("--steps", default=360, show_default=True, help="Total training steps, including a checkpoint's.")
@_options
def codec(steps: int, output: Path, seed: int, device: str, threads: int) -> None:
    """Train the autoencoder: minutes on two cores."""
    _prepare(threads)
    training = CodecTraining(output / "codec.pt", steps, seed, device)
    _train(training, "codec", lambda loss: f"loss {loss:.5f}")
    draw_curves(
        output / "codec-loss.png", {"loss": training.losses}, title="autoencoder: MSE", logarithmic=True, smooth=10
    )
    click.echo(training.path)


@main.command()
@click.option("--steps", default=760, show_default=True, help="Total training steps, including a checkpoint's.")
@click.option("--batch", default=4, show_default=True, help="Short clips in a step; half as many long ones.")
@_options
def transformer(steps: int, batch: int, output: Path, seed: int, device: str, threads: int) -> None:
    """Train the transformer: about an hour on two cores."""
    _prepare(threads)
    training = TransformerTraining(output / "transformer.pt", output / "codec.pt", steps, batch, seed, device)
    _train(training, "transformer", lambda parts: "v {:.4f}  bound {:.3f}  look ahead {:.4f}".format(*parts))
    names = ("v", "bound", "look ahead")
    draw_curves(
        output / "transformer-loss.png",
        {name: [parts[place] for parts in training.losses] for place, name in enumerate(names)},
        title="transformer: mean over 25 steps",
        logarithmic=True,
        smooth=25,
    )
    click.echo(training.path)


def _train(training: CodecTraining | TransformerTraining, name: str, describe: Callable[[Any], str]) -> None:
    """Train to the end or to Ctrl-C, print progress, and write the checkpoint every five minutes and at the end."""
    began, first = time.monotonic(), len(training.losses)
    saved = began
    stopped = threading.Event()
    # Stops between two steps, so that the checkpoint is consistent.
    signal.signal(signal.SIGINT, lambda *_: stopped.set())
    for losses in training.run():
        done, now = len(training.losses), time.monotonic()
        if done % 10 == 0:
            pace = (now - began) / (done - first)
            left = pace * (training.steps - done) / 60
            progress = f"{pace:.2f} s/step, {left:.0f} min left"
            click.echo(f"{name} {done}/{training.steps}  {describe(losses)}  {progress}", err=True)
        if stopped.is_set():
            click.echo(f"stopped after {done} steps; the same command continues from there", err=True)
            break
        if now - saved > _CHECKPOINT_SECONDS:
            training.save()
            saved = now
    training.save()


def _prepare(threads: int) -> None:
    """Set the threads, and keep freed memory: returning it to the system can take most of a step."""
    torch.set_num_threads(threads)
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return  # not glibc
    most_mappings, trim_threshold, top_pad = -4, -1, -2
    set_option(most_mappings, 0)
    set_option(trim_threshold, 2**31 - 1)
    set_option(top_pad, 2**28)


if __name__ == "__main__":
    main()
