"""Two commits compared on one machine: `python -m benchmarks compare BASE HEAD`."""
