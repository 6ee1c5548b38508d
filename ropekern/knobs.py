"""Switches of the whole process."""

import os

programmatic_dependent_launch: bool = os.environ.get("ROPEKERN_PDL", "1") != "0"
"""Whether the Triton kernel may start while the kernel before it ends (programmatic dependent launch, NVIDIA GPUs since
Hopper): its launch then overlaps its predecessor, and it waits for the predecessor before it reads anything. The
environment variable ROPEKERN_PDL=0 turns it off from the start.
"""
