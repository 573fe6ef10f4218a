"""What a stream's series say, and that a removed stream leaves none behind."""

from stream_server.telemetry.metrics import Decoder, Metrics


def series(metrics: Metrics) -> dict[str, float]:
    lines = metrics.render()[0].decode().splitlines()
    found = [line.rsplit(" ", 1) for line in lines if line.startswith("maskstream_stream_decoder{")]
    return {name.partition("{")[2]: float(value) for name, value in found}


def test_one_device_decodes_a_stream_and_the_one_before_does_not_any_more() -> None:
    metrics = Metrics()
    gate = metrics.stream("gate")
    gate.decoded_on("vaapi", "it works")
    gate.decoded_on("cpu", "vaapi does not decode hevc")
    assert gate.decoder == Decoder("cpu", "vaapi does not decode hevc")
    assert series(metrics) == {
        'device="vaapi",stream="gate"}': 0.0,
        'device="cpu",stream="gate"}': 1.0,
    }
    metrics.remove_stream("gate")
    gate.decoded_on("cpu", "a late word")
    assert series(metrics) == {}
