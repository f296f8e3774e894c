"""What `hushgrad train` trains: a data set, a model and settings that suit both."""

from hushgrad.recipes.digits import digits
from hushgrad.recipes.mnist import mnist
from hushgrad.recipes.recipe import Recipe, accuracy

__all__ = ["Recipe", "accuracy", "digits", "mnist"]
