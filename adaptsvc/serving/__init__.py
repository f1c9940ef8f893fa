"""Answering over HTTP from ONNX Runtime: no torch, no Kafka client."""
