"""A provider's row in; what works, what doesn't and what to do about it out: `mailfold providers check`."""
