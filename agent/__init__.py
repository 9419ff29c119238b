"""The agent: Fitment on the device. Light; the supervisor never loads a model."""
