"""Streams, events and CUDA graphs for a PyTorch that has none of them.

Memory belongs to the stream that is current when it is allocated, and to the memory pool of the
graph that is being captured then. Nothing waits: memory that another stream uses is free for reuse
as soon as it is freed. The engine of backward passes does not ask for the stream of the forward
pass here, so what a backward pass allocates belongs to the stream that is current where it began.
"""

# pyright: reportMissingImports=false
# torch is the user's, and need not be where types are checked.
from __future__ import annotations

import weakref
from typing import Any

from .rows import Rows


def pretend_streams(torch: Any, rows: Rows) -> None:
    """Put streams, events and graphs into torch.cuda."""
    cuda = torch.cuda

    class Event:
        """Something that has always happened already."""

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

        def record(self, stream: Any = None) -> None: ...

        def wait(self, stream: Any = None) -> None: ...

        def synchronize(self) -> None: ...

        def query(self) -> bool:
            return True

        def elapsed_time(self, end: Any) -> float:
            return 0.0

    class Stream:
        """A number; 0 is the default stream."""

        last = 0

        def __init__(
            self, device: Any = None, priority: int = 0, *, number: int | None = None, **more: Any
        ) -> None:
            if number is None:
                number = Stream.last = Stream.last + 1
            self.cuda_stream = self.stream_id = number
            self.priority = priority
            self.device, self.device_index, self.device_type = torch.device("cuda", 0), 0, 1

        def wait_stream(self, stream: Any) -> None: ...

        def wait_event(self, event: Any) -> None: ...

        def synchronize(self) -> None: ...

        def record_event(self, event: Any = None) -> Any:
            return event or Event()

        def query(self) -> bool:
            return True

        def __enter__(self) -> Any:
            self._before = rows.stream
            rows.stream = self.cuda_stream
            return self

        def __exit__(self, *args: object) -> None:
            rows.stream = self._before

        def __eq__(self, other: object) -> bool:
            return getattr(other, "cuda_stream", None) == self.cuda_stream

        def __hash__(self) -> int:
            return hash(self.cuda_stream)

    class Graph:
        """What is allocated between begin and end belongs to a pool."""

        pools = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._pool: Any = None

        def capture_begin(self, pool: Any = None, **kwargs: Any) -> None:
            self._pool = pool or graph_pool_handle()
            # Source: aten/src/ATen/cuda/CUDAGraph.cpp, capture_begin, and CUDAGeneratorImpl.cpp,
            # CUDAGeneratorCaptureState::initialize: seed and offset of the random numbers.
            numbers = [rows.allocate(8, "CUDAGraph.capture_begin") for _ in range(2)]
            weakref.finalize(self, lambda: [rows.free(n) for n in numbers])
            rows.pool = self._pool[1]

        def capture_end(self) -> None:
            rows.pool = 0

        def pool(self) -> Any:
            return self._pool

        def replay(self) -> None: ...

        def reset(self) -> None: ...

    def graph_pool_handle() -> tuple[int, int]:
        Graph.pools += 1
        return 0, Graph.pools

    def set_stream(stream: Any) -> None:
        if stream is not None:
            rows.stream = stream.cuda_stream

    class graph(cuda.graph):  # noqa: N801 - its name is torch's
        """Captures into a graph, on a stream of its own."""

        def __enter__(self) -> None:
            self.stream_ctx.__enter__()
            self.cuda_graph.capture_begin(*self.pool)

        def __exit__(self, *args: object) -> None:
            self.cuda_graph.capture_end()
            self.stream_ctx.__exit__(*args)

    def stream(of: Any) -> Any:
        from contextlib import nullcontext

        return nullcontext() if of is None else of

    for name, value in {
        "Stream": Stream, "ExternalStream": Stream, "Event": Event, "CUDAGraph": Graph,
        "graph_pool_handle": graph_pool_handle, "set_stream": set_stream, "stream": stream,
        "graph": graph, "is_current_stream_capturing": lambda: rows.pool != 0,
        "current_stream": lambda *a: Stream(number=rows.stream),
        "default_stream": lambda *a: Stream(number=0),
    }.items():  # fmt: skip
        setattr(cuda, name, value)
    cuda.streams.Stream, cuda.streams.Event = Stream, Event
    cuda.graphs.CUDAGraph, cuda.graphs.graph = Graph, graph
    cuda.graphs.graph_pool_handle = graph_pool_handle
