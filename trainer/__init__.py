"""Training, evaluation and export of the mask classifier; the server never imports this package."""
