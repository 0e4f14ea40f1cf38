"""Train one model on several GPUs: parameters sharded (FSDP) or copied (DDP).

Started once per GPU with RANK and WORLD_SIZE set, by torchrun or `tightfit record --ranks`.
"""

from __future__ import annotations

import argparse
import os

from .transformer import make_decoder, next_token_loss, random_tokens

VOCABULARY, STEPS = 32_000, 5


def main() -> None:
    """Train for some steps; the last batch of an epoch is smaller."""
    import torch
    from torch import distributed
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.nn.parallel import DistributedDataParallel

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--how", choices=("fsdp", "ddp"), default="fsdp")
    a = parser.parse_args()
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(rank)
    distributed.init_process_group("nccl")
    torch.manual_seed(0)
    model = make_decoder(layers=12, width=1024, heads=16, vocabulary=VOCABULARY)
    if a.how == "fsdp":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
        for layer in model.layers:
            fully_shard(layer, mp_policy=policy)
        fully_shard(model, mp_policy=policy)
    else:
        model = DistributedDataParallel(model.bfloat16(), device_ids=[rank])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for step in range(STEPS):
        tokens = random_tokens(4 if step % 3 < 2 else 3, 1024, VOCABULARY)
        next_token_loss(model(tokens), tokens).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
