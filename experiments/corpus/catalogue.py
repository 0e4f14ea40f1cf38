"""Which recordings the corpus has: program, options and device of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TORCH = "2.15.0"
LINES = {"default": "", "expandable": "expandable_segments:True"}
AUTOCAST = (
    "The end of `autocast` frees the weights it has converted in the order of a hash table of "
    "their addresses in host memory (`cached_casts`, aten/src/ATen/autocast_mode.cpp), and those "
    "depend on the settings line. So the two runs free the same blocks in the same places of the "
    "program, in another order within one go. The order decides which of the freed neighbours is "
    "for a moment a piece of its own: predicted from the expandable run, the `inactive_split` "
    "counters of the default one differ, by at most 1.2 % in totals and two pieces in peaks; from "
    "the default run all counters of the expandable one are exact, and all others are exact both "
    "ways."
)


@dataclass(frozen=True)
class Workload:
    """One program, recorded under each of some settings lines.

    Attributes:
        name: first part of the file's name.
        program: module in this folder.
        options: words of its command line.
        profile: device of the stand-in.
        lines: which of LINES.
        ranks: how many ranks run; 0 = one process that knows of no others.
        keep: which of the ranks are kept.
        note: what a user of the recordings must know; Markdown.
    """

    name: str
    program: str
    options: tuple[str, ...] = ()
    profile: str = "h100-80g"
    lines: tuple[str, ...] = ("default", "expandable")
    ranks: int = 0
    keep: tuple[int, ...] = ()
    note: str = ""

    @property
    def script(self) -> Path:
        """The program's file."""
        return Path(__file__).parent / f"{self.program}.py"

    @property
    def what(self) -> str:
        """The first line of the program's description."""
        return self.script.read_text(encoding="utf-8").split('"""')[1].split("\n")[0].strip()

    def files(self, line: str) -> dict[int, str]:
        """Return rank -> name of its recording."""
        if not self.ranks:
            return {0: f"{self.name}.{line}.npz"}
        return {rank: f"{self.name}_rank{rank}of{self.ranks}.{line}.npz" for rank in self.keep}


WORKLOADS = (
    Workload("gpt_fp32", "train_gpt", profile="a100-40g"),
    Workload("gpt_bf16", "train_gpt", ("--bf16",), note=AUTOCAST),
    Workload(
        "gpt_recompute", "train_gpt", ("--bf16", "--checkpoint", "--batch", "16"), "l4-24g",
        note=AUTOCAST,
    ),
    Workload("gpt_accumulate", "accumulate", profile="a100-80g", note=AUTOCAST),
    Workload("mixture_of_experts", "mixture_of_experts"),
    Workload("lora", "lora", profile="l4-24g"),
    Workload("sharded", "ranks", ("--how", "fsdp"), "a100-40g", ranks=4, keep=(0, 3)),
    Workload("copied", "ranks", ("--how", "ddp"), "a100-40g", ranks=2, keep=(1,)),
    Workload("diffusion", "diffusion", profile="a100-40g"),
    Workload("convnet", "convnet", profile="rtx4090-24g"),
    Workload("graph_network", "graph_network", profile="a100-40g"),
    Workload("rlhf", "alternate"),
    Workload("rlhf_empty_cache", "alternate", ("--empty-cache",), lines=("default",)),
    Workload(
        "sleep_mode", "sleep_mode", lines=("expandable",),
        note="The program sets other settings while it runs; `tightfit record` noted when.",
    ),
    Workload("speculate", "speculate", profile="a100-80g"),
    Workload("serve_grow", "serve", ("--kv", "grow", "--requests", "24", "--layers", "4")),
    Workload(
        "serve_pages", "serve", ("--kv", "pages", "--requests", "200", "--at-once", "32"),
        "a100-80g",
    ),
    Workload("serve_graphs", "serve", ("--kv", "graphs", "--requests", "200", "--at-once", "48")),
)  # fmt: skip
