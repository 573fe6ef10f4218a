"""The notebook runs from its first cell to its last on the small set that it makes itself."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent.parent
NOTEBOOK = ROOT / "notebook" / "Mask Detection.ipynb"


@pytest.mark.timeout(900)
def test_every_cell_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MASKSTREAM_DATA", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in shown if "image/png" in output.get("data", {})]
    text = "".join(output.get("text", "") for output in shown)
    assert len(pictures) >= 7  # faces, curves, five plots of the evaluation or more, a prediction
    assert "144 pictures" in text
    assert "epoch 2/2" in text
    assert "macro F1" in text
    assert "1 faces found" in text
