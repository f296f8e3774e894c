"""MNIST by writer on Flower's network."""
