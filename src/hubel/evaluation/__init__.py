"""What a model answers and how good that is: predictions, scores, baselines, label suspects, ONNX."""
