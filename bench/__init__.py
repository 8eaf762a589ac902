"""`python -m bench`: what each stage and the whole path manage on this machine, beside a peer that does only that."""
