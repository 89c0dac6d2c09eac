"""Clips are written atomically, with Ctrl-C, on a full disk and after misuse."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from vdmrt.errors import MediaError
from vdmrt.media.clip_writer import (
    ClipWriter,
    check_output,
    write_clip,
    write_contact_sheet,
    write_latents,
)
from vdmrt.media.encoders import VideoEncoder
from vdmrt.media.pictures import read_clip, read_latents


def smooth(count: int, height: int = 48, width: int = 64) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([np.stack([3 * x + i, 4 * y, 200 - 3 * x], -1) for i in range(count)]).astype(np.uint8)


def latents(count: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((count, 4, 6, 8)).astype(np.float32)


def made_for(suffix: str, count: int) -> npt.NDArray[np.generic]:
    return latents(count) if suffix == ".npy" else smooth(count)


def count_in(path: Path) -> int:
    if path.suffix == ".npy":
        return len(read_latents(path))
    return len(read_clip(path, height=48, width=64, count=1000))


def write(path: Path, pictures: npt.NDArray[np.generic]) -> None:
    with ClipWriter(path) as writer:
        writer.append(pictures)


@pytest.mark.parametrize(("suffix", "bound"), [(".mp4", 3.0), (".gif", 5.0)])
@pytest.mark.parametrize("size", [(48, 64), (47, 63), (1, 1)])
def test_a_clip_is_read_back_nearly_unchanged(tmp_path: Path, suffix: str, bound: float, size: tuple[int, int]) -> None:
    pictures = smooth(7, *size)
    write_clip(tmp_path / f"clip{suffix}", pictures, frames_per_second=10)

    with av.open(tmp_path / f"clip{suffix}") as container:
        stream = container.streams.video[0]
        found = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])

    height, width = size
    assert stream.average_rate == 10
    assert len(found) == 7
    assert np.abs(found[:, :height, :width].astype(int) - pictures).mean() < bound


def test_an_odd_side_of_an_mp4_repeats_its_last_row(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", smooth(2, 47, 63), frames_per_second=8)

    with av.open(tmp_path / "clip.mp4") as container:
        stream = container.streams.video[0]

        assert (stream.height, stream.width, stream.pix_fmt) == (48, 64, "yuv420p")
        assert (stream.codec_context.name, stream.codec_context.colorspace) == ("h264", 6)


@pytest.mark.parametrize("frames_per_second", [1, 7.5, 24, 29.97, 60])
def test_the_rate_is_kept(tmp_path: Path, frames_per_second: float) -> None:
    write_clip(tmp_path / "clip.mp4", smooth(5), frames_per_second=frames_per_second)

    with av.open(tmp_path / "clip.mp4") as container:
        assert float(container.streams.video[0].average_rate or 0) == pytest.approx(frames_per_second, rel=1e-4)


def test_equal_pictures_are_all_kept_in_a_gif(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.gif", np.repeat(smooth(1), 5, axis=0), frames_per_second=8)

    assert count_in(tmp_path / "clip.gif") == 5


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_latents_are_read_back_exactly(tmp_path: Path, dtype: type) -> None:
    made: npt.NDArray[np.floating[Any]] = latents(5).astype(dtype)
    write_latents(tmp_path / "latents.npy", np.asfortranarray(made))

    np.testing.assert_array_equal(read_latents(tmp_path / "latents.npy"), made.astype(np.float32))


def test_latents_written_chunk_by_chunk_are_one_plain_array(tmp_path: Path) -> None:
    with ClipWriter(tmp_path / "latents.npy") as writer:
        for chunk in np.split(latents(120), 12):
            writer.append(chunk)

    np.testing.assert_array_equal(np.load(tmp_path / "latents.npy", allow_pickle=False), latents(120))
    assert writer.count == 120


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".npy"])
def test_a_clip_grows_chunk_by_chunk_under_another_name(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"clip{suffix}"
    with ClipWriter(target) as writer:
        for _ in range(3):
            writer.append(made_for(suffix, 4))
            assert not target.exists()

    assert count_in(target) == writer.count == 12
    assert os.listdir(tmp_path) == [target.name]


def test_a_suffix_in_capitals_is_the_same_suffix(tmp_path: Path) -> None:
    write(tmp_path / "clip.GIF", smooth(2))

    assert count_in(tmp_path / "clip.GIF") == 2


def test_an_existing_file_is_replaced_and_obeys_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    target = tmp_path / "clip.gif"
    target.write_text("old")

    write(target, smooth(2))

    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert count_in(target) == 2


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".npy"])
def test_ctrl_c_keeps_the_frames_written_so_far(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"clip{suffix}"
    with pytest.raises(KeyboardInterrupt), ClipWriter(target) as writer:
        writer.append(made_for(suffix, 5))
        signal.raise_signal(signal.SIGINT)

    assert count_in(target) == 5
    assert os.listdir(tmp_path) == [target.name]


@contextmanager
def ctrl_c_after(delay_s: float) -> Iterator[None]:
    """Send SIGINT ``delay_s`` after the start of the block."""
    timer = threading.Timer(delay_s, signal.raise_signal, [signal.SIGINT])
    timer.start()
    try:
        yield
    finally:
        timer.join()


@pytest.mark.parametrize("delay_ms", range(20, 160, 10))
def test_ctrl_c_within_an_append_loses_no_packet(tmp_path: Path, delay_ms: int) -> None:
    target = tmp_path / "clip.mp4"
    with pytest.raises(KeyboardInterrupt), ClipWriter(target) as writer:
        writer.append(smooth(1))
        with ctrl_c_after(delay_ms / 1000):
            while True:
                writer.append(smooth(8))

    with av.open(target) as container:
        times = [round((frame.time or 0) * 8) for frame in container.decode(video=0)]
    assert times == list(range(writer.count))


def test_ctrl_c_is_handled_as_before_after_each_append(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    write(tmp_path / "clip.npy", latents(1))

    assert signal.getsignal(signal.SIGINT) is before


def test_a_clip_is_written_in_any_thread(tmp_path: Path) -> None:
    thread = threading.Thread(target=write, args=[tmp_path / "clip.gif", smooth(3)])
    thread.start()
    thread.join()

    assert count_in(tmp_path / "clip.gif") == 3


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif"])
def test_ctrl_c_within_a_whole_write_leaves_nothing(tmp_path: Path, name: str) -> None:
    many = smooth(2000)
    with pytest.raises(KeyboardInterrupt), ctrl_c_after(0.1):
        write_clip(tmp_path / name, many, frames_per_second=8)

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".npy"])
@pytest.mark.parametrize("error", [RuntimeError, SystemExit, GeneratorExit])
def test_any_other_exception_leaves_nothing(tmp_path: Path, suffix: str, error: type[BaseException]) -> None:
    with pytest.raises(error), ClipWriter(tmp_path / f"clip{suffix}") as writer:
        writer.append(made_for(suffix, 5))
        raise error

    assert os.listdir(tmp_path) == []


def test_an_exception_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "clip.npy"
    write(target, latents(1))
    with pytest.raises(RuntimeError), ClipWriter(target) as writer:
        writer.append(latents(5))
        raise RuntimeError

    assert count_in(target) == 1


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".npy"])
def test_a_clip_without_pictures_is_not_written(tmp_path: Path, suffix: str) -> None:
    with ClipWriter(tmp_path / f"clip{suffix}"):
        pass

    assert os.listdir(tmp_path) == []


def test_closing_twice_is_allowed_and_appending_then_is_not(tmp_path: Path) -> None:
    writer = ClipWriter(tmp_path / "clip.npy")
    writer.append(latents(2))
    writer.close()
    writer.close()
    writer.discard()

    with pytest.raises(RuntimeError, match=r"the writer of '.*clip\.npy' is closed"):
        writer.append(latents(2))
    assert count_in(tmp_path / "clip.npy") == 2


@pytest.mark.parametrize("name", ["clip.avi", "clip", "clip.mp4.part", "clip.png"])
def test_an_unknown_suffix_is_refused_before_any_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(MediaError, match=rf"must end in \.mp4 or \.gif or \.npy, got suffix '{Path(name).suffix}'"):
        ClipWriter(tmp_path / name)
    with pytest.raises(MediaError, match=r"must end in \.mp4 or \.gif, got"):
        write_clip(tmp_path / name, smooth(1), frames_per_second=8)
    assert os.listdir(tmp_path) == []


def test_latents_and_sheets_have_their_own_suffix(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"must end in \.npy, got suffix '\.gif'"):
        write_latents(tmp_path / "latents.gif", latents(1))
    with pytest.raises(MediaError, match=r"must end in \.png, got suffix '\.jpg'"):
        write_contact_sheet(tmp_path / "sheet.jpg", smooth(1), given=0)


def test_a_folder_at_the_target_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").mkdir()

    with pytest.raises(MediaError, match=r"clip\.mp4' cannot be written: it is a folder; give"):
        check_output(tmp_path / "clip.mp4")


@pytest.mark.parametrize("folder", ["nowhere", "file"])
def test_a_missing_folder_is_named(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(MediaError, match=rf"cannot be written: there is no folder '.*{folder}'"):
        check_output(tmp_path / folder / "clip.mp4")


def test_a_folder_that_may_not_be_written_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        if os.geteuid() == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(MediaError, match=r"clip\.mp4' cannot be written: Permission denied; choose another"):
                check_output(f"{folder}/clip.mp4")
        finally:
            os.seteuid(os.getuid())


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="only Linux has a folder that refuses even root")
def test_a_folder_that_refuses_new_files_is_refused() -> None:
    with pytest.raises(MediaError, match=r"'/proc/self/clip\.mp4' cannot be written: "):
        check_output("/proc/self/clip.mp4")


def test_checking_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "clip.gif").write_text("old")
    check_output(tmp_path / "clip.gif")

    assert os.listdir(tmp_path) == ["clip.gif"]
    assert (tmp_path / "clip.gif").read_text() == "old"


WRITES = {
    "mp4": "write_clip('{folder}/a.mp4', noise, frames_per_second=8)",
    "gif": "write_clip('{folder}/a.gif', noise, frames_per_second=8)",
    "npy": "write_latents('{folder}/a.npy', noise / np.float32(2))",
    "png": "write_contact_sheet('{folder}/a.png', noise, given=1)",
    "streamed mp4": "with ClipWriter('{folder}/a.mp4') as clip:\n    for _ in range(9): clip.append(noise)",
    "streamed npy": "with ClipWriter('{folder}/a.npy') as clip:\n    clip.append(noise / np.float32(2))",
}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot limit the size of a file")
@pytest.mark.parametrize("limit_nbytes", [0, 10_000])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, write: str, limit_nbytes: int) -> None:
    script = f"""
        import os, resource, signal
        import numpy as np
        from vdmrt.errors import MediaError
        from vdmrt.media.clip_writer import ClipWriter, write_clip, write_contact_sheet, write_latents

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        noise = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_nbytes}, resource.RLIM_INFINITY))
        try:
            {textwrap.indent(write.format(folder=tmp_path), " " * 12).strip()}
        except MediaError as e:
            assert "the disk is full (File too large); nothing was left half written" in str(e), e
        else:
            raise SystemExit("no error")
    """
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)], capture_output=True, text=True
    )

    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
@pytest.mark.parametrize(
    "pictures",
    [
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((2, 3, 8, 8), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
)
def test_arrays_that_are_not_pictures_are_misuse(
    tmp_path: Path, suffix: str, pictures: npt.NDArray[np.generic]
) -> None:
    with pytest.raises(ValueError, match=r"pictures must be uint8 \[n, height, width, 3\], got .* \[.*\]"):
        write(tmp_path / f"clip{suffix}", pictures)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("shape", [(4, 8, 8), (0, 4, 8, 8)])
def test_arrays_that_are_not_latents_are_misuse(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"latents must be floating \[n, channels, height, width\], got float32"):
        write_latents(tmp_path / "latents.npy", np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="latents must be floating .* got uint8"):
        write(tmp_path / "latents.npy", np.zeros((1, 4, 8, 8), np.uint8))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".npy"])
def test_all_frames_have_the_shape_of_the_first(tmp_path: Path, suffix: str) -> None:
    made = made_for(suffix, 2)
    writer = ClipWriter(tmp_path / f"clip{suffix}")
    writer.append(made)

    with pytest.raises(ValueError, match=r"the clip has frames of \[.*\], got \[.*\]"):
        writer.append(made[:, :-1, :-1])
    writer.append(made)
    writer.close()
    assert count_in(tmp_path / f"clip{suffix}") == 4


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_latents_that_are_not_finite_are_not_written(tmp_path: Path, value: float) -> None:
    made = latents(2).astype(np.float64)
    made[1, 0, 0, 3] = value

    with pytest.raises(MediaError, match=r"1 of 384 values are NaN or infinite, first at \[1, 0, 0, 3\]"):
        write_latents(tmp_path / "latents.npy", made)
    assert os.listdir(tmp_path) == []


def test_pictures_too_large_for_h264_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="the encoder 'libx264' rejected pictures of 2 x 40000 pixels"):
        write_clip(tmp_path / "clip.mp4", np.zeros((1, 2, 40_000, 3), np.uint8), frames_per_second=8)
    assert os.listdir(tmp_path) == []


def test_a_missing_encoder_is_named() -> None:
    with pytest.raises(MediaError, match=r"this PyAV has no encoder 'libx999': write a \.gif"):
        VideoEncoder(BytesIO(), container="mp4", codec="libx999", rate=Fraction(8))


@pytest.mark.parametrize("frames_per_second", [0, -1, float("inf"), float("nan")])
def test_the_rate_must_be_positive_and_finite(tmp_path: Path, frames_per_second: float) -> None:
    with pytest.raises(ValueError, match="frames_per_second must be positive and finite, got"):
        ClipWriter(tmp_path / "clip.mp4", frames_per_second=frames_per_second)
    assert os.listdir(tmp_path) == []


def test_a_contact_sheet_marks_the_given_pictures(tmp_path: Path) -> None:
    write_contact_sheet(tmp_path / "sheet.png", smooth(7, 20, 30), given=2)

    with Image.open(tmp_path / "sheet.png") as picture:
        sheet = np.asarray(picture)
    assert sheet.shape == (3 * 28, 3 * 38, 3)
    np.testing.assert_array_equal(sheet[4:24, 38 + 4 : 38 + 34], smooth(7, 20, 30)[1])
    borders = [tuple(sheet[28 * (i // 3), 38 * (i % 3)].tolist()) for i in range(9)]
    assert borders == [(255, 140, 0)] * 2 + [(24, 24, 24)] * 5 + [(0, 0, 0)] * 2
    assert os.listdir(tmp_path) == ["sheet.png"]


@pytest.mark.parametrize("given", [-1, 4])
def test_given_pictures_are_among_the_pictures(tmp_path: Path, given: int) -> None:
    with pytest.raises(ValueError, match=f"given must be 0 to 3, got {given}"):
        write_contact_sheet(tmp_path / "sheet.png", smooth(3), given=given)
