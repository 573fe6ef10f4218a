"""`maskstream export`."""

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli import need


def export(
    weights: Annotated[
        str,
        typer.Argument(
            metavar="WEIGHTS", help="A shipped name, a model card, or a training run's NAME.pt."
        ),
    ],
    data: Annotated[
        list[Path],
        typer.Option(
            metavar="DIR",
            help="Data set; may be repeated. int8 is calibrated on its training faces, all are "
            "checked on its validation faces.",
        ),
    ],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the files and their card.")] = (
        Path("maskstream-export")
    ),
    formats: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Formats, with commas; safetensors and openvino are always written.",
        ),
    ] = "safetensors,openvino,openvino-int8,onnx,onnx-int8",
    serve: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="What the service loads from the new card: openvino or openvino-int8 "
            "[default: as the old card says].",
        ),
    ] = None,
) -> None:
    """Write weights in other formats, check each against torch, measure it, and tell it in a card.

    int8 is not served unless --serve says so: on some machines it needs instructions that end the
    process, and only the service's own fp32 runs everywhere.

    \b
    Example:
      maskstream export maskstream-v3 --data data/face-mask-12k --to seen
    """
    need("nncf", "onnx", "onnxruntime", "skimage")
    from trainer.export import calibration_faces, check_wishes, export_variants, open_weights
    from trainer.sets import read_faces, read_held

    names = [name.strip() for name in formats.split(",") if name.strip()]
    check_wishes(weights, names, serve, to)
    faces = read_faces(data)
    held = read_held(faces)
    opened = open_weights(weights, held, data, to)
    card = export_variants(opened, held, calibration_faces(faces), to, names, serve)
    width = max(map(len, card.variants))
    print(f"{'':{width}}      MB  accuracy    drop  ms alone  ms in 32")
    for name, variant in card.variants.items():
        print(
            f"{name:{width}}  {variant.size / 1e6:6.1f}  {variant.accuracy:8.2%}  "
            f"{variant.drop:+6.2f}  {variant.ms_alone:8.2f}  {variant.ms_in_batch:8.2f}"
        )
    print(f"wrote {to / card.name}.json; the service loads {card.openvino_file} of it")
