"""Pure types that both sides need. Standard library only, no IO, no clock."""
