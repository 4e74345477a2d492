"""Training steps on a GPU, recorded once a shape and replayed from then on (CUDA graphs).

A step is hundreds of small kernels; launching them takes several times as long as computing them.
A recorded step is launched as a whole. It gives the same bits: the same kernels, and PyTorch's
generator advances by as much.

The first step of a shape is an ordinary one: it warms up what kernels allocate at their first call.
When the shape comes again the step is recorded, which computes nothing, and replayed. What it reads
and writes lies at fixed addresses (weights, moments, data, rows of the batch); what lives only
within a step shares one pool of memory, so that a shape more costs little.
(PyTorch's notes on CUDA semantics, "CUDA Graphs".)
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


class RecordingFailedError(Exception):
    """A step could not be recorded. This process may be unusable for the GPU now."""


class Recorder:
    """Calls `step(rows, length)`, recorded where its shape came before.

    Args:
        step: changes nothing on the host, and waits for nothing on the device.
        capture: records a call without arguments; gives an object whose `replay()` computes it.
    """

    def __init__(
        self,
        step: Callable[[Tensor, int], None],
        capture: Callable[[Callable[[], None]], Any] | None = None,
    ) -> None:
        self.step, self.capture = step, capture or cuda_capture()
        self.seen: set[tuple[int, int]] = set()
        self.recorded: dict[tuple[int, int], tuple[Any, Tensor]] = {}
        self.replayed = 0  # steps

    def __call__(self, rows: Tensor, length: int) -> None:
        """One step. RecordingFailedError names shape and reason; the step was then not computed."""
        shape = len(rows), length
        if shape not in self.seen:
            self.seen.add(shape)
            self.step(rows, length)
            return
        if shape not in self.recorded:
            self.recorded[shape] = self._record(rows.clone(), length)
        graph, place = self.recorded[shape]
        place.copy_(rows)
        graph.replay()
        self.replayed += 1

    def _record(self, place: Tensor, length: int) -> tuple[Any, Tensor]:
        before = torch.get_rng_state()
        try:
            graph = self.capture(lambda: self.step(place, length))
        except RuntimeError as error:  # out of memory is one, too
            cause: BaseException = error  # the end of a broken capture raises an error of its own
            while cause.__context__ is not None:
                cause = cause.__context__
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            raise RecordingFailedError(f"{len(place)} x {length} tokens: {reason}") from error
        if not torch.equal(before, torch.get_rng_state()):
            # It decides by lot what to compute (layer dropout); a replay would always do the same.
            raise RecordingFailedError(
                f"{len(place)} x {length} tokens: the model draws random numbers on the host"
            )
        return graph, place


def cuda_capture() -> Callable[[Callable[[], None]], torch.cuda.CUDAGraph]:
    """A function that records calls on the current stream, all in one pool of memory."""
    pool = torch.cuda.graph_pool_handle()

    def capture(call: Callable[[], None]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=torch.cuda.current_stream()):
            call()
        return graph

    return capture


@contextlib.contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Compute on a stream of its own: nothing can be recorded on a GPU's default one."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)
