"""Switches of the whole process."""

programmatic_dependent_launch: bool = True
"""Whether the Triton kernel may start while the kernel before it ends (programmatic dependent launch, NVIDIA GPUs since
Hopper): its launch then overlaps its predecessor, and it waits for the predecessor before it reads anything.
"""
