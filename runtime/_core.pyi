"""The C core: devices, captured graphs, the KV ring's slot arithmetic, and counter-based random normals.

Memory is passed as integer addresses; each call documents the ownership. A failed call of the CUDA driver raises a
DeviceError that names the call.

``close`` of a device, of events or of a graph raises RuntimeError while a call uses the object without the GIL: in
another thread, or in the callback that closes it. The object stays unchanged; close it after the call has returned.
Memory has no such check, because copies take addresses: the caller keeps the memory of an address open.
"""

from collections.abc import Callable
from typing import Any, Final

class Device:
    """One queue on one device. Created by :func:`host_device` or :func:`cuda_device`.

    Work on the queue runs in order; on a GPU the calls return before it is done. Several threads may use the queue on
    disjoint memory.

    Attributes:
        name: "host", or "cuda:0" and so on.
        index: Number of the GPU; 0 on the host.
        stream: CUstream of the queue; 0 on the host.
        is_host: Whether addresses are host addresses.
        allocated_nbytes: Bytes of open allocations, without pinned host memory.
    """

    @property
    def name(self) -> str: ...
    @property
    def index(self) -> int: ...
    @property
    def stream(self) -> int: ...
    @property
    def is_host(self) -> bool: ...
    @property
    def allocated_nbytes(self) -> int: ...
    def allocate(self, nbytes: int, /) -> Memory:
        """Allocate zero-filled memory, aligned to 64 bytes, on a GPU to 256.

        Raises:
            ValueError: Not 1 <= nbytes < 2**63.
            DeviceError: The device does not have enough memory.
        """

    def allocate_pinned(self, nbytes: int, /) -> Memory:
        """Allocate page-locked host memory for direct copies; on a GPU it is not zeroed.

        Raises:
            ValueError: Not 1 <= nbytes < 2**63.
            DeviceError: The host does not have enough memory.
        """

    def copy(self, destination: int, source: int, nbytes: int, /) -> None:
        """Copy bytes within the device."""

    def upload(self, destination: int, source: int, nbytes: int, /) -> None:
        """Copy bytes from the host; pinned bytes must not change until the queue has completed the copy."""

    def download(self, destination: int, source: int, nbytes: int, /) -> None:
        """Copy bytes to the host; they are valid after the queue has completed the copy."""

    def copy_3d(
        self,
        destination: int,
        source: int,
        *,
        width: int,
        height: int,
        depth: int,
        destination_pitch: int,
        destination_height: int,
        source_pitch: int,
        source_height: int,
    ) -> None:
        """Copy ``depth`` planes of ``height`` rows of ``width`` bytes.

        Row y of plane z is at ``address + (z * plane_height + y) * pitch``. The caller owns both ranges and
        keeps them alive; they must not overlap. The GIL is released while bytes move.

        Raises:
            ValueError: A number is negative, an address is 0, ``width`` exceeds a pitch, ``height`` exceeds a
                plane's height, or a range runs past the end of the address space.
        """

    def zero_2d(self, address: int, *, width: int, height: int, pitch: int) -> None:
        """Set ``height`` rows of ``width`` bytes, ``pitch`` bytes apart, to zero.

        Raises:
            ValueError: A number is negative, ``address`` is 0, ``width`` exceeds ``pitch``, or the range runs
                past the end of the address space.
        """

    def synchronize(self) -> None:
        """Wait until the queue is empty."""

    def synchronize_stream(self, stream: int, /) -> None:
        """Wait until a foreign stream of this GPU is empty: a CUstream, 1 the legacy default, 2 the per-thread default.

        Raises:
            RuntimeError: The device is the host.
        """

    def locate(self, address: int, /) -> int:
        """Return the number of the GPU that owns an address.

        Raises:
            RuntimeError: The device is the host.
            DeviceError: The address is not a CUDA address.
        """

    def activate(self) -> None:
        """Make the GPU's primary CUDA context current on this thread, for libraries that require it."""

    def memory_info(self) -> tuple[int, int]:
        """Return the free and the total bytes of the device's memory."""

    def events(self, count: int, /) -> Events:
        """Create ``count`` events, 1 <= count <= 2**20."""

    def begin_capture(self) -> None:
        """Start to capture this thread's work on the queue instead of running it (CUDA's thread-local mode).

        Raises:
            RuntimeError: The device is the host.
        """

    def end_capture(self) -> Graph:
        """End the capture and return the instantiated graph.

        Raises:
            DeviceError: The work could not be captured, or there was none.
        """

    def abort_capture(self) -> None:
        """End the capture and discard it."""

    def replay(
        self, graph: Graph, events: Events, steps: int, on_step: Callable[[int], object] | None = None
    ) -> list[float]:
        """Replay a captured graph ``steps`` times without the GIL, at most two in flight, and wait for the last.

        Args:
            graph: Graph of this device.
            events: More than ``steps`` events of this device: event 0 is recorded before the first step, i after the
                i-th.
            steps: Number of steps.
            on_step: Called after each step with the number done; an exception from it ends the loop. It cannot close
                graph, events or device.

        Returns:
            Host time of each step, in microseconds.

        Raises:
            ValueError: Graph or events belong to another device, or there are too few events.
            DeviceError: A step failed.
        """

    def close(self) -> None:
        """Release stream and context. Closing twice is allowed.

        Raises:
            RuntimeError: Memory, events or graphs of the device are still open, or a call uses the device.
        """

class Memory:
    """One block of memory. Created by :meth:`Device.allocate`; freed by ``close`` or with the object.

    Attributes:
        address: Address of the first byte; RuntimeError once closed.
        nbytes: Length.
        closed: Whether the memory was closed.
        device: Device of the allocation.
    """

    @property
    def address(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    @property
    def device(self) -> Device: ...
    def dlpack(self, address: int, shape: tuple[int, ...], code: int, bits: int) -> Any:
        """Wrap a contiguous tensor of this memory as a DLPack capsule; its consumer keeps the memory from being freed.

        Args:
            address: Address of the first element.
            shape: Sizes of at most 8 axes.
            code: DLPack's type code: 0 signed, 1 unsigned, 2 floating point.
            bits: Bits of an element, 1 to 255.

        Raises:
            ValueError: The tensor is not inside this memory, or an argument is out of range.
            RuntimeError: The memory is closed.
        """

    def close(self) -> None:
        """Free the memory after its queue is empty and DLPack's consumers have released it. Twice is allowed."""

class Events:
    """Reusable timing events on a device's queue. Created by :meth:`Device.events`."""

    def __len__(self) -> int: ...
    def record(self, event: int, /) -> None:
        """Record an event after the work enqueued so far."""

    def wait(self, event: int, /) -> None:
        """Wait until the device has reached an event. The GIL is released; signals are checked every 50 ms."""

    def elapsed_ms(self, first: int, last: int, /) -> float:
        """Return the device time between two completed events, in milliseconds."""

    def close(self) -> None:
        """Destroy the events after the queue has reached them. Closing twice is allowed.

        Raises:
            RuntimeError: A replay or a wait uses the events.
        """

class Graph:
    """A captured CUDA graph. Created by :meth:`Device.end_capture`.

    Attributes:
        nodes: Number of nodes (kernels, copies and so on) of the graph.
    """

    @property
    def nodes(self) -> int: ...
    def close(self) -> None:
        """Destroy the graph after the queue has completed it. Closing twice is allowed.

        Raises:
            RuntimeError: A replay uses the graph.
        """

class Ring:
    """Mapping of latent frames to slots; owns no memory.

    The first ``sinks`` latent frames are pinned: frame f is in slot f for f < sinks, else in slot
    sinks + (f - sinks) mod (slots - sinks).

    Attributes:
        slots: Capacity in latent frames, 1 <= slots <= 65536.
        sinks: Latent frames that are pinned to the first slots, 0 <= sinks < slots.
        written: Latent frames written since the last reset; the absolute number of the next one. A ring may begin
            anywhere below 2**48.
        visible: Slots that hold a frame: min(written, slots).
    """

    def __new__(cls, slots: int, *, sinks: int = 0, written: int = 0) -> Ring: ...
    @property
    def slots(self) -> int: ...
    @property
    def sinks(self) -> int: ...
    @property
    def written(self) -> int: ...
    @property
    def visible(self) -> int: ...
    def segments(self, count: int, /) -> tuple[tuple[int, int, int], ...]:
        """Plan where the next ``count`` latent frames go, without writing them.

        Returns:
            One or two runs ``(slot, first, length)``: frames ``first .. first + length - 1`` of the chunk go
            to slots ``slot .. slot + length - 1``.

        Raises:
            ValueError: Not 1 <= count <= slots - sinks.
        """

    def advance(self, count: int, /) -> None:
        """Count ``count`` latent frames as written.

        Raises:
            ValueError: Not 1 <= count <= slots - sinks.
        """

    def frame(self, slot: int, /) -> int:
        """Return the absolute number of the latent frame in ``slot``, or -1 for an empty slot.

        Raises:
            ValueError: Not 0 <= slot < slots.
        """

    def reset(self) -> None:
        """Mark all slots empty."""

def inspect_dlpack(capsule: object, /) -> tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, int, int]]:
    """Return address, layout and dtype of a DLPack tensor; the capsule keeps the ownership.

    Returns:
        Address, shape, strides in elements, and the dtype as code, bits and lanes.

    Raises:
        TypeError: The object is not a DLPack capsule, or the capsule was consumed.
    """

INITIAL_NOISE: Final = 0
STEP_NOISE: Final = 1
PREFIX_NOISE: Final = 2

def host_device() -> Device:
    """Return the host's device: aligned host memory, copies by the CPU.

    Each call creates a device with a separate count of ``allocated_nbytes``.
    """

def cuda_device(index: int = 0) -> Device:
    """Open a queue on GPU ``index``: a new non-blocking stream in the primary context that torch and CuPy use.

    Raises:
        DeviceError: There is no NVIDIA driver, it is too old, or there is no GPU of that number.
    """

def fill_normal(address: int, count: int, *, seed: int, frame: int, step: int, kind: int) -> None:
    """Write ``count`` float32 standard normals of one latent frame to host memory at ``address``.

    Philox4x32-10 (Salmon et al., SC 2011), keyed by ``seed``, counted by element, absolute latent frame,
    denoising step and kind, so that a request's noise depends on neither backend, row nor chunking. The
    GIL is released.

    Args:
        address: Host address, 4-byte aligned, of ``count`` float32 that the caller owns.
        count: Elements of one latent frame, channels * height * width, below 2**34.
        seed: 0 <= seed < 2**64.
        frame: Absolute number of the latent frame, 0 <= frame < 2**48.
        step: Denoising step, 0 <= step < 2**16.
        kind: INITIAL_NOISE, STEP_NOISE or PREFIX_NOISE.

    Raises:
        ValueError: An argument is out of range.
    """
