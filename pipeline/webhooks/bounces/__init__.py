"""Mail that comes back: a raw message in, what it reports of an email of ours out. Pure; never raises for its bytes."""
