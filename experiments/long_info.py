"""What a long trace says about itself: the summary that `tightfit info` prints."""

from __future__ import annotations

from ..traces.long_trace import LongTrace
from ..traces.program import Op
from .recorded_by import RecordedBy
from .summary import DeviceInfo, Summary

# What an op would have been recorded as.
_ENTRIES = {
    "alloc": (Op.MALLOC,),
    "free_requested": (Op.FREE, Op.FREE_LATER),
    "free_completed": (Op.FREE, Op.COMPLETE),
    "oom": (Op.TRY,),
}


def summarize_long(trace: LongTrace) -> Summary:
    """Return what a long trace says about itself; it was counted when it was read."""
    program = trace.program
    entries = {name: sum(map(program.count, ops)) for name, ops in _ENTRIES.items()}
    start = int(program.req_size[program.request].sum())
    device = DeviceInfo(
        device=program.device,
        entries={name: n for name, n in entries.items() if n},
        allocations=entries["alloc"],
        streams=len(program.streams),
        private_pools=len(program.pools) - 1,
        segments=0,
        start_reserved_bytes=0,
        start_requested_bytes=start,
        peak_reserved_bytes=0,
        peak_requested_bytes=trace.peak_requested_bytes,
        end_reserved_bytes=0,
        end_requested_bytes=trace.end_requested_bytes,
        wasted_at_peak=None,
        is_exact=program.complete,
        shows_driver=False,
        owners=[],
        out_of_memory=None,
    )
    return Summary(
        name=trace.name,
        devices=[device],
        conf=str(trace.settings.get("PYTORCH_CUDA_ALLOC_CONF", "") or ""),
        settings={k: v for k, v in trace.settings.items() if k == "synthetic"},
        recorded_by=RecordedBy(None, None, ""),
        findings=program.findings,
    )
