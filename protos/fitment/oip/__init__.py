"""The Open Inference Protocol, version 2: a public contract, here beside our own."""
