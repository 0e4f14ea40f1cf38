"""Eight streams, each with buffers of its own, for which expandable segments are predicted worse.

A page of large expandable memory is 20 MiB, so a buffer of 21 MiB costs 40; a segment of its own
costs 22. Recorded as traces/data/side_streams.default.npz:

    tightfit record --stand-in h100-80g -o side_streams.default.npz -- python side_streams.py
"""

# Torch may be absent where types are checked.
# pyright: reportMissingImports=false


def main() -> None:
    import torch

    streams = [torch.cuda.Stream() for _ in range(8)]
    kept = {}
    for turn in range(20):
        kept.clear()
        for number, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                kept[number] = torch.empty(21 << 20, dtype=torch.uint8, device="cuda")
                kept[number].fill_(turn)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
