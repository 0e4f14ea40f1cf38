"""Running policies as the allocator of real programs."""
