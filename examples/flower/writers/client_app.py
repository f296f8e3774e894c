"""A node: speaks for some writers, whose images never leave it."""

from hushgrad.federated import flower
from writers.task import process, start, writers

app = flower.client_app(process, start, writers)
