export const STREAM_NAME = /^[a-z0-9][a-z0-9_-]{0,62}$/;
export const NAME_RULE =
  "Use 1 to 63 lower-case letters, digits, “-” and “_”, beginning with a letter or digit.";

/** What is wrong with a stream's name, or null. */
export function nameFault(name: string): string | null {
  if (name === "") return "Give the stream a name.";
  return STREAM_NAME.test(name) ? null : NAME_RULE;
}

/** The name as it may be written: what people type, with its blanks and capitals mended. */
export function tidyName(typed: string): string {
  return typed.toLowerCase().replace(/\s+/g, "-");
}

const NEEDS_HOST = new Set(["rtsp", "rtsps", "http", "https", "rtmp", "srt", "udp", "tcp"]);
const URL_PARTS =
  /^([a-z][a-z0-9+.-]*):(?:\/\/(?:[^/?#]*@)?(\[[^\]]+\]|[^:/?#]*)(?::([^/?#]*))?)?/i;

/** What is wrong with a camera's address, or null; `schemes` are those that the server takes. */
export function urlFault(url: string, schemes: readonly string[]): string | null {
  if (url === "") return "Give the camera's address, such as rtsp://192.168.1.20:554/stream1.";
  if (/\s/.test(url)) return "The address must not contain blanks.";
  const parts = url.match(URL_PARTS);
  if (parts === null) return "The address must begin with its protocol, such as rtsp://.";
  const [, scheme = "", host, port] = parts;
  if (!schemes.includes(scheme.toLowerCase())) {
    return `“${scheme}:” is not taken here. Use ${schemes.map((known) => `${known}:`).join(", ")}.`;
  }
  if (NEEDS_HOST.has(scheme.toLowerCase()) && !host) {
    return `The address names no camera: write ${scheme}://HOST:PORT/PATH.`;
  }
  if (
    port !== undefined &&
    !(/^\d{1,5}$/.test(port) && Number(port) >= 1 && Number(port) <= 65535)
  ) {
    return `“${port}” is not a port: use 1 to 65535.`;
  }
  return null;
}

/** The address with a user and password put in, both escaped. */
export function withCredentials(url: string, user: string, password: string): string {
  if (user === "") return url;
  const account = `${encodeURIComponent(user)}:${encodeURIComponent(password)}@`;
  return url.replace(/^([a-z][a-z0-9+.-]*:\/\/)(?:[^/?#]*@)?/i, `$1${account}`);
}

/** A message without the passwords that this form holds. */
export function withoutSecrets(message: string, url: string, password: string): string {
  const inUrl = url.match(/^[a-z][a-z0-9+.-]*:\/\/[^/?#:]*:([^/?#]*)@/i)?.[1] ?? "";
  return [inUrl, password, encodeURIComponent(password)]
    .filter((secret) => secret.length > 0)
    .reduce((text, secret) => text.replaceAll(secret, "•••"), message);
}
