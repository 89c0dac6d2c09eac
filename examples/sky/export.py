"""Export of the two checkpoints to the demo's bundle: FP16, including the autoencoder."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import click
from checkpoint import load_checkpoint
from codec_training import load_codec
from transformer_training import load_average

from vdmrt.bundle import FP16, Bundle, SamplerDefaults, ScheduleSpec, sha256_of
from vdmrt.export import ExportOptions, export_bundle

__all__ = ["LARGEST_NBYTES", "export_sky"]

LARGEST_NBYTES = 12 * 2**20
_HERE = Path(__file__).parent


@click.command()
@click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder of checkpoints."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=_HERE / "bundle",
    help="The bundle to write.  [default: bundle/ beside this file]",
)
def main(runs: Path, output: Path) -> None:
    """Export the averaged transformer and the autoencoder as one bundle."""
    bundle = export_sky(runs, output)
    nbytes = sum(path.stat().st_size for path in bundle.path.rglob("*") if path.is_file())
    click.echo(f"{output}  {nbytes / 2**20:.2f} MiB")
    if nbytes > LARGEST_NBYTES:
        raise click.ClickException(f"wanted at most {LARGEST_NBYTES} bytes, found {nbytes}")


def export_sky(runs: Path, output: Path) -> Bundle:
    """Write the bundle, replacing an existing one."""
    model, steps = load_average(runs / "transformer.pt")
    options = ExportOptions(
        precisions=(FP16,),
        chunk_frames=8,
        slots=25,
        max_steps=100,
        prediction="v",
        schedule=ScheduleSpec("linear", 1000),
        sampler=SamplerDefaults("ddim", 10, 1.0),
    )
    provenance = {
        "commit": _commit(),
        "command": shlex.join(["python", *map(_shorten, sys.argv)]),
        "training": _training_commands(runs),
        "transformer": f"sha256 {sha256_of(runs / 'transformer.pt')}, {steps} training steps",
        "codec": f"sha256 {sha256_of(runs / 'codec.pt')}",
        "data": "examples/sky/sky.py: rendered",
    }
    return export_bundle(
        model, output, options, name="sky", provenance=provenance, codec=load_codec(runs / "codec.pt"), replace=True
    )


def _training_commands(runs: Path) -> str:
    """Return the commands that train the two checkpoints from scratch."""
    commands = []
    for stage, extra in (("codec", ()), ("transformer", ("batch",))):
        state = load_checkpoint(runs / f"{stage}.pt")
        assert state is not None, "it was loaded a moment ago"
        options = {"steps": len(state["losses"]), **{name: state[name] for name in (*extra, "seed")}}
        commands.append(f"python train.py {stage} " + " ".join(f"--{name} {value}" for name, value in options.items()))
    return "; ".join(commands)


def _shorten(argument: str) -> str:
    """Return an argument without paths of this machine."""
    return Path(argument).name if Path(argument).is_absolute() else argument


def _commit() -> str:
    try:
        found = subprocess.run(
            ["git", "-C", str(_HERE), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


if __name__ == "__main__":
    main()
