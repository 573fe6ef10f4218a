import type { Info, Privacy, StreamStatus } from "./types";

/** Where the service answers: the folder that this page was loaded from. */
export function serviceUrl(path: string): string {
  return new URL(path, document.baseURI).href;
}

/** A refusal of the server, or no answer at all (status 0). The message is for people. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
    this.name = "Problem";
  }

  /** Whether the same request may succeed later. */
  get retryable(): boolean {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

/** The problem that a refused response tells, from problem+json where there is one. */
export async function problemOf(response: Response): Promise<Problem> {
  const text = await response.text().catch(() => "");
  let told = "";
  try {
    const body: unknown = JSON.parse(text);
    if (typeof body === "object" && body !== null) {
      const { detail, title } = body as { detail?: unknown; title?: unknown };
      told = typeof detail === "string" ? detail : typeof title === "string" ? title : "";
    }
  } catch {
    // A proxy between us and the server may answer in HTML: its status is all there is to tell.
  }
  return new Problem(response.status, told || `The server answered ${response.status}.`);
}

/** `fetch` that throws a `Problem` for a refusal, a lost connection or no answer in time. */
export async function call(url: string, init: RequestInit = {}, timeoutMs = 10_000) {
  let response: Response;
  try {
    response = await fetch(url, { signal: AbortSignal.timeout(timeoutMs), ...init });
  } catch (error) {
    const late = error instanceof DOMException && error.name === "TimeoutError";
    throw new Problem(
      0,
      late ? "The server did not answer in time." : "The server is not reachable.",
    );
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

export async function getInfo(): Promise<Info> {
  return (await call(serviceUrl("api/info"))).json();
}

export async function addStream(
  name: string,
  url: string,
  privacy: Privacy,
): Promise<StreamStatus> {
  const response = await call(serviceUrl("api/streams"), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ name, url, privacy }),
  });
  return response.json();
}

export async function removeStream(name: string): Promise<void> {
  await call(serviceUrl(`api/streams/${encodeURIComponent(name)}`), { method: "DELETE" });
}

/** Why the service is up but not ready, or null if it is ready or does not answer. */
export async function notReadyReason(): Promise<string | null> {
  try {
    const response = await fetch(serviceUrl("readyz"), { signal: AbortSignal.timeout(3000) });
    if (response.status !== 503) return null;
    const body: unknown = await response.json();
    const reason = (body as { reason?: unknown } | null)?.reason;
    return typeof reason === "string" ? reason : "it is still starting";
  } catch {
    return null;
  }
}
