"""PyTorch's own readings of a settings line, release by release; `settings_line.py` is the front.

Until 2.9 one strict parser reads the line. From 2.10 four passes do, each with a cursor of its
own: one looks for the backend while the library loads, one takes large_segment_size_mb wherever it
stands, then come the keys all accelerators share, then CUDA's. Those passes step over separators
without looking, so some lines that look wrong are accepted and mean something; the passes are
reproduced one by one because only then the answers agree.

Source: c10/core/AllocatorConfig.{h,cpp} (2.10 to 2.15), c10/cuda/CUDAAllocatorConfig.cpp (2.4 to
2.15), BackendStaticInitializer in c10/cuda/CUDACachingAllocator.cpp.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

from ..traces.errors import PolicyError, did_you_mean
from ..traces.units import GiB, MiB, shortened
from .c_numbers import U64, extract_double, to_double, to_int32_as_u64, to_u64
from .release import Release
from .settings import OFF, Settings
from .settings_hints import LONGEST_SHOWN, meant_by
from .settings_keys import BY_NAME, COUNT, DIVISIONS, FLAG, FRACTION, MIB, NAME, RESERVE, Key

N_DIVISIONS = 16
MOST_MB = (U64 - 1) // MiB  # PyTorch caps sizes here
FAR = 1 << 62  # stands for sizes beyond every device; leaves room for sums in 64 bits
# PyTorch's sum of a request and the capped rounding wraps around, which leaves 1 MiB less than the
# request: no unsplittable block is ever close enough.
WRAPPED_ROUNDING = -MiB


class Parser:
    """One line, its tokens and what was found so far; positions are indices into the tokens.

    Args:
        conf: the line.
        rules: the release whose parser to follow.
        before: the settings in force when a line is parsed at run time; by default those of a
            process that has read none.
    """

    def __init__(self, conf: str, rules: Release, before: Settings | None = None) -> None:
        self.conf = conf
        self.rules = rules
        self.before = before or Settings()
        self.strict = rules.version < (2, 10)
        # Until 2.9 only the blank itself is dropped.
        conf = re.sub(" +" if self.strict else "[ \t\n\v\f\r]+", "", conf)
        self.tokens = re.findall(r"[,:\[\]]|[^,:\[\]]+", conf)
        self.found: dict[str, Any] = {}
        self.divisions = [0] * N_DIVISIONS
        self.warnings: list[str] = []
        self.backend_at_load = "native"

    def parse(self) -> Settings:
        """Read the whole line.

        Raises:
            PolicyError: the release refuses it.
        """
        self.load_pass()
        if self.strict:
            self.strict_pass()
        else:
            self.large_segment_pass()
            self.common_pass()
            self.cuda_pass()
        return self.settings()

    # The passes.

    def load_pass(self) -> None:
        """Find the backend the library picks while it loads; the later passes must agree."""
        if self.strict:
            # A cruder reading, split at blanks: "backend: cudaMallocAsync" does not name one.
            for option in re.split("[ \t\n\v\f\r,]+", self.conf):
                words = re.split(":+", option)
                if words[0] == "backend" and words[1:2] in (["native"], ["cudaMallocAsync"]):
                    self.backend_at_load = words[1]
                    return
            return
        i = 0
        while i < len(self.tokens):
            if self.tokens[i] == "backend":
                self.separator(i + 1, ":", "backend")
                if self.at(i + 2, "backend", BY_NAME["backend"].accepts) == "cudaMallocAsync":
                    self.backend_at_load = "cudaMallocAsync"
                return
            i = self.comma(self.skip(i))

    def large_segment_pass(self) -> None:
        """Find large_segment_size_mb first: other bounds depend on it."""
        if not BY_NAME["large_segment_size_mb"].known_to(self.rules):
            return
        i = 0
        while i < len(self.tokens):
            if self.tokens[i] == "large_segment_size_mb":
                i = self.value(BY_NAME["large_segment_size_mb"], i)
            i += 1

    def common_pass(self, refuse_unknown: bool = True) -> None:
        """Read the keys all accelerators share.

        Args:
            refuse_unknown: a build without CUDA steps over keys it does not know.
        """
        i = 0
        while i < len(self.tokens):
            key = self.key(i) if refuse_unknown else BY_NAME.get(self.tokens[i])
            shared = key is not None and key.common and key.known_to(self.rules)
            if key is None or not shared or key.name == "large_segment_size_mb":
                i = self.skip(i)
            else:
                i = self.value(key, i)
            i = self.comma(i)
        threshold = self.found.get("pinned_max_round_threshold_mb")
        cached = self.found.get("pinned_max_cached_size_mb")
        if threshold is not None and cached is not None and threshold > cached:
            self.warnings.append(
                f"pinned_max_round_threshold_mb ({threshold}) is above pinned_max_cached_size_mb "
                f"({cached}): host allocations above the latter are never rounded up"
            )

    def cuda_pass(self) -> None:
        """Read CUDA's own keys."""
        native_only = False
        i = 0
        while i < len(self.tokens):
            key = self.key(i)
            if key.common:
                i = self.skip(i)
            else:
                i = self.value(key, i)
                native_only |= key.name != "backend"
            i = self.comma(i)
        self.warn_backend(native_only)

    def strict_pass(self) -> None:
        """Read the whole line, as until 2.9."""
        native_only = False
        i = 0
        while i < len(self.tokens):
            key = self.key(i)
            i = self.value(key, i)
            native_only |= key.name != "backend"
            i = self.comma(i)
        self.warn_backend(native_only)

    def warn_backend(self, native_only: bool) -> None:
        if native_only and self.found.get("backend") == "cudaMallocAsync":
            self.warnings.append(
                "backend:cudaMallocAsync ignores the keys of the native allocator in this line"
            )

    # Moving over the tokens.

    def key(self, i: int) -> Key:
        """Return the key that token i names, or refuse the line."""
        word = self.tokens[i]
        key = BY_NAME.get(word)
        if key is None:
            near = "" if meant_by(self.conf) else did_you_mean(word, BY_NAME)
            match = re.search("'(.*)'", near)
            if match and not BY_NAME[match[1]].known_to(self.rules):
                near += f" That key exists from {BY_NAME[match[1]].since}"
            told = shortened(word)
            self.refuse(told, f"found '{told}', expected a key of torch {self.rules.name}{near}")
        if not key.known_to(self.rules):
            self.refuse(word, f"{word} exists from {key.since}, torch {self.rules.name} refuses it")
        return key

    def at(self, i: int, key: str, accepts: str) -> str:
        """Return token i, or refuse the line if it has ended."""
        if i >= len(self.tokens):
            self.refuse(key, f"found the end of the line, expected {accepts}")
        return self.tokens[i]

    def separator(self, i: int, sign: str, key: str) -> None:
        """Step over a separator; only the strict parser looks at it, all need one to be there."""
        found = self.at(i, key, f"'{sign}'")
        if self.strict and found != sign:
            self.refuse(
                key, f"found '{shortened(found)}', expected '{sign}' (not enforced from 2.10)"
            )

    def comma(self, i: int) -> int:
        """Return where the next key stands, given where the last value ended."""
        if i + 1 < len(self.tokens):
            self.separator(i + 1, ",", self.tokens[i])
            return i + 2
        return i + 1

    def skip(self, i: int) -> int:
        """Step over a key that is another pass's; return where its value ends."""
        key = self.tokens[i]
        self.separator(i + 1, ":", key)
        i += 2
        if self.at(i, key, "a value") == "[":
            while i < len(self.tokens) and self.tokens[i] != "]":
                i += 1
            self.at(i, key, "']'")
        return i

    def refuse(self, key: str, why: str) -> NoReturn:
        where = "" if key in why else f"{shortened(key)}: "
        line = shortened(self.conf, LONGEST_SHOWN)
        raise PolicyError(f"settings line '{line}': {where}{why}{meant_by(self.conf)}")

    # Values.

    def value(self, key: Key, i: int) -> int:
        """Read and check the value of the key at i; return where it ends."""
        self.separator(i + 1, ":", key.name)
        i += 2
        text = self.at(i, key.name, key.accepts)
        if key.type == DIVISIONS:
            return self.list_of_divisions(key, i) if text == "[" else self.all_divisions(key, i)
        if key.type == FLAG:
            if text not in ("True", "False"):
                self.bad(key, text, did_you_mean(text, ("True", "False")))
            self.found[key.name] = text
        elif key.type in (MIB, COUNT):
            self.found[key.name] = self.whole(key, text)
        elif key.type == FRACTION:
            self.found[key.name] = self.fraction(key, text)
        elif key.type == NAME:
            self.backend(key, text)
        elif key.type == RESERVE:
            self.reserve(key, text)
        else:
            return self.reserves(key, i)
        return i

    def bad(self, key: Key, text: str, hint: str = "") -> NoReturn:
        self.refuse(
            key.name,
            f"found '{shortened(text)}', torch {self.rules.name} accepts: {key.accepts}{hint}",
        )

    def integer(self, key: Key, text: str) -> int:
        value = to_int32_as_u64(text) if self.strict else to_u64(text)
        if value is None:
            too_long = self.strict and to_u64(text) is not None
            self.bad(key, text, "; 32 bits until 2.9" if too_long else "")
        return value

    def whole(self, key: Key, text: str) -> int:
        value = self.integer(key, text)
        if key.name == "pinned_num_register_threads":
            if not _is_power_of_two(value) or value > 128:
                self.bad(key, text)
            return value
        if key.name == "large_segment_size_mb":
            least = 11
        elif key.name in ("max_split_size_mb", "max_non_split_rounding_mb"):
            least = 21 if self.strict else self.large_mb
        else:
            least = int(key.name == "pinned_reserve_segment_size_mb")
        if value < least:
            self.bad(key, text, f"; here at least {least}")
        # Host memory reserved in advance is the one size that PyTorch does not cap.
        return value if key.name == "pinned_reserve_segment_size_mb" else min(value, MOST_MB)

    def fraction(self, key: Key, text: str) -> float:
        value = to_double(text)
        inside = value is not None and (
            0.0 <= value <= 1.0 if key.name == "per_process_memory_fraction" else 0.0 < value < 1.0
        )
        if value is None or not inside:
            self.bad(key, text)
        return value

    def all_divisions(self, key: Key, i: int) -> int:
        value = self.integer(key, self.tokens[i])
        if not _is_power_of_two(value):
            self.bad(key, self.tokens[i])
        self.divisions = [value] * N_DIVISIONS
        return i

    def list_of_divisions(self, key: Key, i: int) -> int:
        """Read "[K:D,...,>:D]"; the first K also fills what is below it, gaps stay as they are."""
        first, last = True, 0
        i += 1
        while i < len(self.tokens) and self.tokens[i] != "]":
            size = self.tokens[i]
            self.separator(i + 1, ":", key.name)
            i += 2
            text = self.at(i, key.name, "a number of divisions")
            value = self.integer(key, text)
            if value and not _is_power_of_two(value):
                self.bad(key, text)
            if size == ">":
                start = last if self.rules.roundup_rest_overwrites_last else last + 1
                self.divisions[start:] = [value] * (N_DIVISIONS - start)
            else:
                boundary = to_u64(size)
                if boundary is None or not _is_power_of_two(boundary):
                    self.bad(key, size)
                last = min(boundary.bit_length(), N_DIVISIONS) - 1
                if first:
                    self.divisions[:last] = [value] * last
                first = False
                self.divisions[last] = value
            # Until 2.9 PyTorch reads beyond its tokens here: no answer is the right one.
            if self.at(i + 1, key.name, "']'") != "]":
                i += 1
                self.separator(i, ",", key.name)
            i += 1
        if not self.strict:
            self.at(i, key.name, "']'")
        return i

    def backend(self, key: Key, text: str) -> None:
        if text not in ("native", "cudaMallocAsync"):
            self.bad(key, text, did_you_mean(text, ("native", "cudaMallocAsync")))
        if text != self.backend_at_load:
            loaded = self.backend_at_load
            self.bad(key, text, f"; the library, when loaded, reads this line as {loaded}")
        self.found[key.name] = text

    def reserve(self, key: Key, text: str) -> None:
        in_gib = text[-1] in "Gg"
        value = extract_double(text[:-1] if in_gib else text)
        if value is None or value <= 0:
            self.warnings.append(
                f"{key.name}: found '{shortened(text)}', expected a positive fraction such as 0.5 "
                "or a size such as 40G; ignored"
            )
        elif key.type == RESERVE:
            self.found[key.name] = value
            self.found["reserve unit"] = "GiB" if in_gib else "fraction"

    def reserves(self, key: Key, i: int) -> int:
        """Read "[name:reserve,...]": checked, and of no effect without C++ code."""
        while self.at(i + 1, key.name, "']'") != "]":
            self.separator(i + 2, ":", key.name)
            i += 3
            self.reserve(key, self.at(i, key.name, "a reserve"))
            if self.at(i + 1, key.name, "']'") == ",":
                i += 1
        return i + 1

    @property
    def large_mb(self) -> int:
        """large_segment_size_mb as far as it is known."""
        return self.found.get("large_segment_size_mb", self.before.large_segment_size // MiB)

    def flag(self, name: str) -> bool:
        """A flag as found, else as it was."""
        return self.found[name] == "True" if name in self.found else getattr(self.before, name)

    def settings(self) -> Settings:
        """Return what was found; everything else at its default, or as it was before.

        A line parsed at run time resets max_split_size, the thresholds and the divisions it does
        not mention, and from 2.11 max_non_split_rounding; the rest it leaves alone.
        """
        get = self.found.get
        split_mb = get("max_split_size_mb")
        rounding = self.before.max_non_split_rounding
        if "max_non_split_rounding_mb" in self.found or self.rules.version >= (2, 11):
            rounding = rounding_bytes(get("max_non_split_rounding_mb", self.large_mb))
        reserve = self.before.reserve_fraction, self.before.reserve_bytes
        found = get("expandable_segments_reserve")
        if found:
            in_gib = get("reserve unit") == "GiB"
            reserve = (None, int(min(found * GiB, FAR))) if in_gib else (found, None)
        return Settings(
            conf=self.conf,
            backend=get("backend", self.before.backend),
            large_segment_size=min(self.large_mb * MiB, FAR),
            max_split_size=OFF if split_mb is None else min(split_mb * MiB, OFF),
            max_non_split_rounding=rounding,
            garbage_collection_threshold=get("garbage_collection_threshold", 0.0),
            roundup_divisions=tuple(min(d, FAR) for d in self.divisions),
            expandable_segments=self.flag("expandable_segments"),
            per_process_memory_fraction=get(
                "per_process_memory_fraction", self.before.per_process_memory_fraction
            ),
            throw_on_cudamalloc_oom=self.flag("throw_on_cudamalloc_oom"),
            graph_capture_record_stream_reuse=self.flag("graph_capture_record_stream_reuse"),
            reserve_fraction=reserve[0],
            reserve_bytes=reserve[1],
        )


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def rounding_bytes(mb: int) -> int:
    """Return what max_non_split_rounding_mb means in signed 64-bit arithmetic."""
    return WRAPPED_ROUNDING if mb >= MOST_MB else min(mb * MiB, FAR)
