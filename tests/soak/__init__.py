"""What is done to a service to break it. Each trial says what it did and what came of it, small or large.

`make test` runs each in a short form; `make soak` runs them in full and prints the table.
"""
