"""A trained model for use without etude: a bundle with its own reader, torch.export, ONNX."""
