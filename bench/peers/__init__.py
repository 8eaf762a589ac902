"""`python -m bench.peers`: the same fold on the same topic by four stream processors, one after the other."""
