"""A CLIP classifier service that keeps learning from unlabeled images."""
