"""What the project costs, each beside a named peer, run in turn on the same machine.

Ratios mean something, times do not.

Run as: python -m benchmarks.NAME        (results/NAME.json keeps every raw value)
"""
