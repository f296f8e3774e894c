"""On Keras 3."""

import hushgrad.keras  # noqa: F401  (finds Keras's backend, or says what is missing)
