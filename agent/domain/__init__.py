"""What the agent decides, without clock, disk, randomness or messages."""
