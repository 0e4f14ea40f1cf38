"""Record what a program would allocate on a GPU, with a PyTorch that has no CUDA and no device.

Tensors on CUDA are fake (FakeTensorMode): they have a shape and no values. Those on the CPU are
real, so what a program decides there stays as it is. A dispatch mode sees each operation and the
storages it makes; a storage that says it is on CUDA is an allocation. This package runs inside the
recorded program, where nothing else of tightfit need be installed: capture_hook.py loads it by its
path, under a name of its own, and it imports its own modules only.
"""
