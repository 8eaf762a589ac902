"""Send conversions to Fast Track: the role `mailfold emit`."""
