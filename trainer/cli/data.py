"""`maskstream data`."""

import typer

app = typer.Typer(help="Fetch and look at training data.", no_args_is_help=True)


@app.callback()
def data() -> None:
    """Fetch and look at training data."""
