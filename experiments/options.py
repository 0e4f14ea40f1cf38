"""What several commands share: arguments and options, one meaning and one text each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

READER_SECONDS = 8  # what compiling the reader's kernels took
MAIN_PATH_SECONDS = 10  # what compiling everything a command needs took at most

UNITS = "bytes without a unit; GB = 10^9, GiB = 2^30"  # of every size on the command line
_RECORDING = (
    "A recording: a torch.cuda.memory._dump_snapshot() file, plain or .gz, our .npz, or another "
    "tool's trace (profiler JSON, RMM or STAlloc log, CSV)"
)

TraceFile = Annotated[
    Path, typer.Argument(metavar="TRACE", help=f"{_RECORDING}.", show_default=False)
]
TraceOrLong = Annotated[
    Path,
    typer.Argument(
        metavar="TRACE", help=f"{_RECORDING}; or a long trace, NAME.events.", show_default=False
    ),
]
NpzFile = Annotated[
    Path,
    typer.Argument(metavar="OUT.npz", help="The file to write.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")]
Torch = Annotated[
    str | None,
    typer.Option(
        "--torch",
        metavar="V",
        help="Follow the rules of this PyTorch release, e.g. 2.11 (default: what fits best).",
        show_default=False,
    ),
]
Conf = Annotated[
    str | None,
    typer.Option(
        "--conf",
        metavar="LINE",
        help="A PYTORCH_CUDA_ALLOC_CONF line to replay under (default: the recorded one).",
        show_default=False,
    ),
]
RecordedConf = Annotated[
    str | None,
    typer.Option(
        "--conf",
        metavar="LINE",
        help="The PYTORCH_CUDA_ALLOC_CONF line it began under (default: the recorded one, which is "
        "the one at the end).",
        show_default=False,
    ),
]
Then = Annotated[
    list[str] | None,
    typer.Option(
        "--then",
        metavar="ENTRY:LINE",
        help="The program itself sets LINE before this entry, as "
        "torch.cuda.memory._set_allocator_settings(LINE) does; repeatable.",
        show_default=False,
    ),
]
Capacity = Annotated[
    str | None,
    typer.Option(
        "--capacity",
        metavar="SIZE",
        help=f"Memory of the simulated device, e.g. 24GiB; {UNITS} (default: it never runs out).",
        show_default=False,
    ),
]
Other = Annotated[
    str | None,
    typer.Option(
        "--other",
        metavar="SIZE",
        help="Memory others use on the device: CUDA context, libraries, other processes.",
        show_default=False,
    ),
]
DriverCosts = Annotated[
    Path | None,
    typer.Option(
        "--driver-costs",
        metavar="FILE.json",
        help="What the driver's calls take, as `tightfit verify` measures it or in the format of "
        "sim/driver_costs.json (default: that).",
        show_default=False,
    ),
]
DeviceIndex = Annotated[
    int | None,
    typer.Option(
        "--device",
        metavar="N",
        help="Which device of the recording (default: all of them).",
        show_default=False,
    ),
]
StandIn = Annotated[
    str | None,
    typer.Option(
        "--stand-in",
        metavar="GPU",
        help="Without a GPU: run the CUDA build of PyTorch on a stand-in for this one, e.g. "
        "h100-80g; `tightfit record --stand-in list` shows which there are.",
        show_default=False,
    ),
]
CudaBuild = Annotated[
    str | None,
    typer.Option(
        "--torch",
        metavar="V",
        help="With --stand-in: full version of the CUDA build (default: the installed one if it is "
        "one, else 2.15.0, fetched once).",
        show_default=False,
    ),
]
