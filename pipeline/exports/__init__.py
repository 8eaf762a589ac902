"""Exports of emails and timelines as files; the gateway and `mailfold export` make the same bytes."""
