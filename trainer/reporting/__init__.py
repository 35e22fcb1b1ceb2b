"""What a run tells: evaluations compared, replies looked through for reward hacking, curves, one HTML page."""
