"""The error tree. Each error's message is one line a user can act on: the culprit, then the mend.

MaskstreamError
├── SettingsError            a configuration value or file is wrong; the service does not start
├── ModelError               weights or an inference runtime cannot be used
├── InvalidPicture           bytes that are not a picture we can read, or one over the limits
├── Overloaded               work was shed; the same call may succeed a moment later (retry helps)
├── SourceError              a camera or file cannot be read (retry helps unless said otherwise)
│   ├── SourceUnreachable    no route, refused, timed out, no such host
│   ├── SourceAuthError      the camera refused the user name or password
│   ├── SourceEnded          the stream ended or went silent
│   └── SourceUnsupported    not a URL, path or codec we can read (retry does not help)
├── StreamError
│   ├── InvalidStreamName    the name does not match frames.STREAM_NAME
│   ├── StreamNotFound
│   ├── StreamExists
│   ├── StreamBusy           somebody publishes to it already
│   ├── TooManyStreams       also too many viewers of one stream
│   ├── StateNotSaved        the list of streams cannot be written to state_dir
│   └── ViewUnavailable      the camera's own video cannot be passed on to browsers
├── SessionEnded             a WebRTC session is over, or its process went while it was to be asked
└── NegotiationError         an SDP offer that cannot be answered
    └── MalformedBody        not SDP, or not a trickle-ICE fragment, at all
"""


class MaskstreamError(Exception):
    """Base of every error this project raises on purpose."""

    retryable: bool = False


class SettingsError(MaskstreamError):
    """A configuration value or file is wrong; the message names the key and the mend."""


class ModelError(MaskstreamError):
    """Weights or an inference runtime cannot be used."""


class InvalidPicture(MaskstreamError):
    """Bytes that are not a readable picture, or a picture over the size limits."""


class Overloaded(MaskstreamError):
    """Work was shed because a bounded queue was full."""

    retryable = True


class SourceError(MaskstreamError):
    """A camera or file cannot be read now."""

    retryable = True


class SourceUnreachable(SourceError):
    """No route, connection refused, timed out, or no such host."""


class SourceAuthError(SourceError):
    """The camera refused the user name or password."""


class SourceEnded(SourceError):
    """The stream ended or went silent."""


class SourceUnsupported(SourceError):
    """Not a URL, path or codec that can be read; trying again does not help."""

    retryable = False


class StreamError(MaskstreamError):
    """Base of errors about named streams."""


class InvalidStreamName(StreamError):
    """The name is not made of 1 to 63 lower-case letters, digits, '-' and '_'."""


class StreamNotFound(StreamError):
    """No stream has this name."""


class StreamExists(StreamError):
    """A stream of this name exists already."""


class StreamBusy(StreamError):
    """Somebody publishes to this stream already."""


class TooManyStreams(StreamError):
    """The limit on streams or viewers is reached."""


class StateNotSaved(StreamError):
    """The list of remembered streams cannot be written; the message names the file and the mend."""


class ViewUnavailable(StreamError):
    """The camera's own video cannot be passed on to browsers."""


class SessionEnded(MaskstreamError):
    """A WebRTC session is over."""


class NegotiationError(MaskstreamError):
    """An SDP offer that cannot be answered; the message says what is missing."""


class MalformedBody(NegotiationError):
    """Not SDP, or not a trickle-ICE fragment, at all."""
