"""What a schema cannot say: topics, signature envelopes, conversion. No IO."""
