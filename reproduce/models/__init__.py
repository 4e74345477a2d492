"""Models: loading, logits, metrics, ONNX."""
