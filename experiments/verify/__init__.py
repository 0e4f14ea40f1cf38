"""Verifying: a prediction put to a real allocator on a real device, or on a stand-in for one."""
