"""`python -m benchmarks`. Guarded: asv imports every module of this package."""

from benchmarks.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
