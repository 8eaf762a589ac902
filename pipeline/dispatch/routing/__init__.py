"""Choose the provider of each email and keep a circuit breaker for each provider."""
