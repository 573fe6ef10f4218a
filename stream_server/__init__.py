"""maskstream's service: cameras in, mask verdicts, annotated video, events and metrics out.

The way of a frame, and where to read it:

    ingest/     a camera, a file or a peer delivers pictures
    streams.py  the hub supervises one Stream per name (retry, stale, restart)
    pipeline.py START HERE: one stream's whole path
    detect/     picture -> face boxes
    classify/   crops of all streams -> one batcher -> probabilities
    annotate/   picture + faces -> picture with boxes and labels
    publish/    encoded once per rendition, handed to every viewer
    web/        WHIP, WHEP, REST, live events, metrics
"""
