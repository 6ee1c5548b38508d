"""The ruler: presets, inputs, clocks, the asv suite and the command line. Never installed; it measures all commits."""
