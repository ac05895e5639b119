"""Benchmarks, with one runner: `python -m tools.benchmarks NAME [options] [--json FILE]`.

Each module named below has `add_arguments(parser)` and `rows(args)`, which yields one dict a measurement as it is done;
`verdict(done, args)` may add closing lines and an exit status. Times are compared within one run: sides alternate, and
ratios and medians are what to quote.
"""
