"""`python -m benchmarks run`: cells over commits, spread over several GPUs or a cluster by submitit."""
