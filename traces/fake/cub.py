"""Temporary memory of NVIDIA's CUB, which PyTorch sorts and scans with.

The forms are CUB's own; how many elements a block takes depends on the capability and was measured:
PyTorch 2.13 and 2.15 (the same) were run on stand-ins of capability 7.0, 8.0, 8.9 and 9.0 with 64
to 3,000,000 elements. Capability 10 and above, which was not, is taken to be like 9.0.

Source: cub/device/dispatch/dispatch_radix_sort.cuh, dispatch_unique_by_key.cuh; CUB keeps each part
at a multiple of 256 bytes and asks for 255 bytes more.
"""

from __future__ import annotations

ONE_BLOCK = 2304  # elements that one block sorts by itself, without memory
SORT_TILE = {7: 2816, 8: 3840}  # by major capability, elements of a block
UNIQUE_TILE = {(7, 0): 160, (7, 5): 160, (8, 0): 672, (8, 6): 160, (8, 9): 160}
NEWER_SORT_TILE, NEWER_UNIQUE_TILE = 4608, 2432
SCAN_TILE = 448  # the same for all


def _whole(*parts: int) -> int:
    return sum(-(-part // 256) * 256 for part in parts) + 255


def sort_bytes(n: int, values: int, capability: tuple[int, int]) -> int:
    """Return the bytes for sorting n pairs of 64 bits whose keys are below `values`."""
    if n <= ONE_BLOCK:
        return 1
    passes = -(-max(1, (values - 1).bit_length()) // 8)
    blocks = -(-n // SORT_TILE.get(capability[0], NEWER_SORT_TILE))
    copies = [8 * n, 8 * n] if passes > 1 else []
    return _whole(passes * 256 * 8, passes * 4, blocks * 256 * 4, *copies)


def unique_bytes(n: int, capability: tuple[int, int]) -> int:
    """Return the bytes for finding the first of each run among n sorted numbers of 64 bits."""
    blocks = -(-n // UNIQUE_TILE.get(capability, NEWER_UNIQUE_TILE))
    return _whole(8 * (blocks + 32), 1, 1)


def scan_bytes(n: int) -> int:
    """Return the bytes for the running sum of n numbers of 64 bits."""
    return _whole(8 * (-(-n // SCAN_TILE) + 32), 1, 1)
