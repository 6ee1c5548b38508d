"""Tests: CPU and Triton's interpreter everywhere; real kernels, marked gpu, where there is one."""
