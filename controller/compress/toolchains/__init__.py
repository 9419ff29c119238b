"""Toolchains: one adapter for each format that a target runs."""
