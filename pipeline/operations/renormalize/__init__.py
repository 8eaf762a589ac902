"""The raw past read anew: what a corrected mapping says otherwise than what was told, told as corrections."""
