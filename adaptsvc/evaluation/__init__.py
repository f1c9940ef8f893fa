"""The evaluation: methods measured on a labeled folder of images, under four kinds of prior knowledge."""
