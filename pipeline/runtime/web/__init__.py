"""What every HTML page of Mailfold shares: one stylesheet, and templates that escape."""
