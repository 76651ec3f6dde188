"""Training that survives interruption and scales out, on Ultralytics' DetectionTrainer."""
