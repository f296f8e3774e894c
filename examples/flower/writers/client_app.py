"""A node: speaks for some writers, whose images never leave it."""

from writers.task import process, start, writers

from hushgrad.federated import flower

app = flower.client_app(process, start, writers)
