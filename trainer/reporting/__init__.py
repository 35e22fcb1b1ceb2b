"""Reports of a run: evaluations compared, completions checked for reward hacking, curves, one HTML page."""
