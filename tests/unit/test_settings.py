"""Precedence, closedness, and errors that name the place and the key meant."""

import contextlib
import datetime
import stat
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stream_server.errors import SettingsError
from stream_server.settings import Settings, load, to_yaml
from stream_server.settings.schema import check_source_url

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "config.example.yaml"


def write(folder: Path, text: str) -> Path:
    path = folder / "maskstream.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(config: Path | None = None, **given: object) -> str:
    """The one line with which `load` refuses."""
    environ = given.pop("environ", {})
    with pytest.raises(SettingsError) as caught:
        load(config, given, environ)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- precedence -----------------------------------------------------------------------------------


def test_defaults() -> None:
    settings = load(environ={})
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8000)
    assert settings.api.source_schemes == ("rtsp", "rtsps", "demo")
    assert settings.api.max_upload_bytes == 16 << 20
    assert settings == Settings()


def test_command_line_over_environment_over_file_over_default(tmp_path: Path) -> None:
    config = write(tmp_path, "server: {port: 1, host: file, root_path: /file}\nstale_seconds: 9\n")
    environ = {"MASKSTREAM__SERVER__PORT": "2", "MASKSTREAM__SERVER__HOST": "environment"}
    settings = load(config, {"server.port": 3}, environ)
    assert settings.server.port == 3
    assert settings.server.host == "environment"
    assert settings.server.root_path == "/file"
    assert settings.stale_seconds == 9
    assert settings.server.shutdown_seconds == 4


def test_environment_names_the_file(tmp_path: Path) -> None:
    config = write(tmp_path, "log: {level: debug}")
    assert load(environ={"MASKSTREAM_CONFIG": str(config)}).log.level == "debug"
    other = tmp_path / "other.yaml"
    other.write_text("log: {level: error}")
    assert load(other, environ={"MASKSTREAM_CONFIG": str(config)}).log.level == "error"


def test_sources_of_all_layers_add_up(tmp_path: Path) -> None:
    config = write(
        tmp_path,
        "sources:\n  gate: rtsp://a/1\n  yard: {url: rtsp://b/1, transport: udp}\n"
        "  door: 'demo:'\n",
    )
    environ = {
        "MASKSTREAM__SOURCES__GATE__TRANSPORT": "tcp",
        "MASKSTREAM__SOURCES__HALL": "rtsp://c/1",
    }
    sources = load(config, {"sources.yard": "rtsp://new/1"}, environ).sources
    assert list(sources) == ["gate", "yard", "door", "hall"]
    assert (sources["gate"].url, sources["gate"].transport) == ("rtsp://a/1", "tcp")
    assert (sources["yard"].url, sources["yard"].transport) == ("rtsp://new/1", "udp")


def test_lists_and_tables_in_the_environment() -> None:
    settings = load(
        environ={
            "MASKSTREAM__API__SOURCE_SCHEMES": "[rtsp]",
            "MASKSTREAM__WEBRTC__ICE_SERVERS": '[{"urls": "stun:stun.example:3478"}]',
            "MASKSTREAM__SERVER__ROOT_PATH": "/1e3",
            "MASKSTREAM__DETECTOR__LONG_SIDE": "null",
        }
    )
    assert settings.api.source_schemes == ("rtsp",)
    assert settings.webrtc.ice_servers[0].urls == ("stun:stun.example:3478",)
    assert settings.server.root_path == "/1e3", "text is not taken for a number"
    assert settings.detector.long_side is None


def test_others_variables_are_none_of_our_business() -> None:
    """A Kubernetes Service called maskstream gives each pod these."""
    environ = {
        "MASKSTREAM_PORT": "tcp://10.0.0.1:8000",
        "MASKSTREAM_SERVICE_HOST": "10.0.0.1",
        "MASKSTREAM_PORT_8000_TCP_ADDR": "10.0.0.1",
        "PATH": "/bin",
    }
    assert load(environ=environ) == Settings()


def test_empty_file_and_empty_sections(tmp_path: Path) -> None:
    assert load(write(tmp_path, ""), environ={}) == Settings()
    assert load(write(tmp_path, "# nothing\nserver:\nsources:\n"), environ={}) == Settings()


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert load(environ={}).state_dir == tmp_path / ".local/state/maskstream"
    assert load(environ={"MASKSTREAM__STATE_DIR": "~/x"}).state_dir == tmp_path / "x"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert load(environ={}).state_dir == tmp_path / "xdg/maskstream"


def test_settings_cannot_be_changed() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.server.port = 1
    with pytest.raises(ValidationError):
        settings.stale_seconds = 1


# --- refusals -------------------------------------------------------------------------------------

WRONG_FILES = {
    "server:\n  prot: 80": ":2: unknown key 'server.prot'; did you mean 'server.port'?",
    "port: 80": ":1: unknown key 'port'; did you mean 'server.port'?",
    "servr: {}": ":1: unknown key 'servr'; did you mean 'server'?",
    "log:\n  level: warn": ":2: log.level: must be 'debug', 'info', 'warning' or 'error'",
    "server:\n  host: a\n  port: 70000": ":3: server.port: must be less than or equal to 65535",
    "server:\n  port: 1\n  port: 2": ":3: server.port is there twice (first in line 2)",
    "server: 7": ":1: server: ",
    "- a": ":1: a table of settings is needed",
    "server: [": ":1: not YAML",
    "sources:\n  a: demo:": ":2: not YAML: mapping values are not allowed here; quote a value",
    "sources:\n  Gate: 'demo:'": ":2: sources.Gate: stream name 'Gate' is not valid",
    "sources:\n  gate:": ":2: sources.gate: a URL is missing",
    "sources:\n  gate: {transport: tcp}": ":2: sources.gate.url is missing",
    "sources:\n  gate: ftp://x/y": ":2: sources.gate.url: scheme 'ftp' cannot be read",
    "sources:\n  gate: {url: 'demo:', trnsport: tcp}": "did you mean 'sources.gate.transport'?",
    "sources: [a]": ":1: sources: ",
    "api: {source_schemes: [file]}": "so media_dir must name the folder",
    "api: {media_dir: /nonexistent/folder}": "there is no folder /nonexistent/folder",
    "server: {tls_cert: cert.pem}": "tls_key is missing",
    "server: {cors_origins: ['a.example']}": "'a.example' is not an origin",
    "server: {root_path: 'x/'}": "'x/' is not a path",
    "retry: {initial_seconds: 5, max_seconds: 1}": "max_seconds must not be less",
    "detector: {name: yunet}": "path must name its ONNX file",
    "detector: {threshold: 2}": "must be less than 1, not 2",
    "webrtc:\n  ice_servers:\n    - urls: stun:a\n    - urls: turn:b": ":4: webrtc.ice_servers.1",
    "webrtc: {ice_servers: [{urls: http://x}]}": "an ICE server is written stun:host:port",
    "classifier: {device: gpu}": "classifier.device",
    "stale_seconds: .nan": "stale_seconds: must be ",
    "stale_seconds: 0": "must be greater than 0",
    "state_dir: ''": "the path is empty",
    "? [a]\n: b": ":1: ",
    "a: !!python/object/apply:os.system [ls]": ":1: ",
    "2026-01-01: x": "unknown key",
}


@pytest.mark.parametrize("text", WRONG_FILES)
def test_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    config = write(tmp_path, text)
    message = refusal(config)
    assert message.startswith(str(config))
    assert WRONG_FILES[text] in message


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read (No such file" in refusal(tmp_path / "none.yaml")
    assert "cannot be read (Is a directory" in refusal(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    assert "is not UTF-8 text" in refusal(binary)
    deep = write(tmp_path, "[" * 5000)
    assert str(deep) in refusal(deep)
    knot = write(tmp_path, "server: &a\n  host: *a\n")
    assert str(knot) in refusal(knot)


WRONG_VARIABLES = {
    "MASKSTREAM_PORT": "did you mean MASKSTREAM__SERVER__PORT?",
    "MASKSTREAM_SERVER_PORT": "did you mean MASKSTREAM__SERVER__PORT?",
    "MASKSTREAM__SERVER__PROT": "did you mean MASKSTREAM__SERVER__PORT?",
    "MASKSTREAM__STALE": "no such setting",
    "MASKSTREAM_CONFG": "did you mean MASKSTREAM_CONFIG?",
    "maskstream__server__port": "did you mean MASKSTREAM__SERVER__PORT?",
    "MASKSTREAM__": "no such setting",
    "MASKSTREAM__SOURCES__": "no such setting",
    "MASKSTREAM__API__SOURCE_SCHEMES": "the value is not YAML or JSON",
    "MASKSTREAM__LIMITS__MAX_STREAMS": "limits.max_streams: must be a valid integer, not '['",
}


@pytest.mark.parametrize("name", WRONG_VARIABLES)
def test_wrong_variable_is_refused_by_name(name: str) -> None:
    message = refusal(environ={name: "["})
    assert message.startswith(name)
    assert WRONG_VARIABLES[name] in message


def test_wrong_value_is_blamed_on_the_layer_it_came_from(tmp_path: Path) -> None:
    config = write(tmp_path, "server: {port: wrong}")
    assert refusal(config, environ={"MASKSTREAM__SERVER__HOST": "h"}).startswith(str(config))
    assert load(config, {"server.port": 5}, {}).server.port == 5
    message = refusal(config, environ={}, **{"server.port": "x"})
    assert message.startswith("command line: server.port")


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    config = write(tmp_path, "server: {prot: 1}\nlog: {level: x}\n")
    with pytest.raises(SettingsError) as caught:
        load(config, {}, {})
    assert len(str(caught.value).splitlines()) == 2


@given(st.text(max_size=200))
def test_any_text_is_taken_or_refused_as_a_source(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert check_source_url(text)


@pytest.mark.parametrize(
    "url",
    ["rtsp://", "rtsp://h:99999/", "rtsp://[::1/x", "rtsp:x", "http://h/", "demo:x", "a\x00b"],
)
def test_wrong_source_urls(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        check_source_url(url)


def test_source_paths_become_urls() -> None:
    assert check_source_url("/videos/a b.mp4") == "file:///videos/a%20b.mp4"
    assert check_source_url("clip.mp4").startswith("file:///")
    assert check_source_url("rtsp://u:p%40@h:1/x") == "rtsp://u:p%40@h:1/x"


# --- secrets --------------------------------------------------------------------------------------

SECRETS = """
sources:
  gate: rtsp://admin:hunter2@cam/s
webrtc:
  ice_servers: [{urls: 'turn:t.example:3478', username: bob, credential: hunter2}]
"""


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    settings = load(write(tmp_path, SECRETS), environ={})
    assert settings.sources["gate"].url == "rtsp://admin:hunter2@cam/s"
    credential = settings.webrtc.ice_servers[0].credential
    assert credential is not None
    assert credential.get_secret_value() == "hunter2"
    for shown in (to_yaml(settings), str(settings), repr(settings)):
        assert "hunter2" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "sources: {gate: 'rtsp://admin:hunter2@/s'}",
        "sources: {gate: 'rtsp://admin:hunter2@cam:x/s'}",
        "sources: {gate: 'http://admin:hunter2@cam/s'}",
        "sources: {'rtsp://admin:hunter2@cam/s': 'demo:'}",
        "sources: ['rtsp://admin:hunter2@cam/s']",
        "sources: {gate: {url: ['rtsp://admin:hunter2@cam/s']}}",
        "source: rtsp://admin:hunter2@cam/s",
        "log: {level: 'rtsp://admin:hunter2@cam/s'}",
        "webrtc: {ice_servers: [{urls: 'turn:t:1', username: 5, credential: hunter2}]}",
        "webrtc: {ice_servers: [{urls: 'turn:bob:hunter2@t:1'}]}",
    ],
)
def test_secrets_are_not_in_refusals(tmp_path: Path, text: str) -> None:
    assert "hunter2" not in refusal(write(tmp_path, text))


# --- the example ----------------------------------------------------------------------------------


def test_what_is_shown_can_be_loaded(tmp_path: Path) -> None:
    settings = load(environ={"MASKSTREAM__SOURCES__DEMO": "demo:", "MASKSTREAM__SERVER__PORT": "9"})
    assert load(write(tmp_path, to_yaml(settings)), environ={}) == settings


def test_example_is_complete_valid_and_true(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/config.example.yaml is what `maskstream config show` prints for the defaults."""
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    shown = to_yaml(Settings()).replace(str(Path.home()), "~")
    text = EXAMPLE.read_text(encoding="utf-8")
    body = text[text.index("# Where the page") :]
    assert body == shown, "run: maskstream config show"
    assert load(EXAMPLE, environ={}) == Settings()
    assert yaml.safe_load(text).keys() == Settings.model_fields.keys()


def test_certificate_and_key_must_fit(tmp_path: Path, tls_pair: tuple[Path, Path]) -> None:
    cert, key = tls_pair
    given = {"server.tls_cert": str(cert), "server.tls_key": str(key)}
    assert load(None, given, {}).server.tls_key == key
    assert stat.S_ISREG(key.stat().st_mode)
    key.write_text("not a key")
    assert "are not a PEM certificate and its key" in refusal(**given)
    key.unlink()
    assert f"there is no file {key}" in refusal(**given)


@pytest.fixture
def tls_pair(tmp_path: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(private, hashes.SHA256())
    )
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert, key
