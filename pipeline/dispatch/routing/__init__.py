"""A brand's email in, the provider it goes to out; and what each provider's answers tell of its health."""
