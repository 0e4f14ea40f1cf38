"""The machine: heap, free sets, driver and the replay of a program through a policy."""
