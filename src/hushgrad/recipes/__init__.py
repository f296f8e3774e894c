"""What `hushgrad train` trains: a data set, a model and settings that suit both."""

from hushgrad.recipes.digits import digits
from hushgrad.recipes.mnist import mnist
from hushgrad.recipes.recipe import Recipe, accuracy
from hushgrad.recipes.scattering import mirrored, scattering
from hushgrad.recipes.tabular import Network, tabular_mechanism

__all__ = [
    "Network",
    "Recipe",
    "accuracy",
    "digits",
    "mirrored",
    "mnist",
    "scattering",
    "tabular_mechanism",
]
