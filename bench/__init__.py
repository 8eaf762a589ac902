"""`python -m bench`: measure the throughput of each stage and of the whole path on this machine.

Beside each figure stands that of a peer: a minimal program that does only the part that cannot be left out.
"""
