"""Does an agent keep the wire's contract? See ``protos/WIRE.md``."""
