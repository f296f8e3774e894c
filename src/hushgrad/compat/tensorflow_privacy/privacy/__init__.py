"""The modules of TensorFlow Privacy, under the paths that scripts import them from."""
