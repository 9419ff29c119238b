"""Unstructured and N:M pruning of ONNX weights. Size only: no runtime here runs zeros faster."""
