import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Problem } from "../api/client";
import { endAllSessions, HttpSession } from "./session";

const OFFER = "v=0\r\nm=video 9 X 96\r\na=ice-ufrag:u\r\na=ice-pwd:p\r\na=mid:0\r\n";
const ENDPOINT = "http://server.test/whip/cam";

class FakeConnection extends EventTarget {
  configuration: RTCConfiguration = { bundlePolicy: "max-bundle", iceServers: [] };
  readonly calls: string[] = [];
  closed = false;
  async createOffer() {
    return { type: "offer", sdp: OFFER };
  }
  async setLocalDescription() {
    this.calls.push(`local, ${this.configuration.iceServers?.length ?? 0} ICE servers`);
  }
  async setRemoteDescription({ sdp }: { sdp: string }) {
    this.calls.push(`remote ${sdp}`);
  }
  getConfiguration() {
    return this.configuration;
  }
  setConfiguration(configuration: RTCConfiguration) {
    this.configuration = configuration;
  }
  close() {
    this.closed = true;
  }
  find(candidate: string | null) {
    const event = Object.assign(new Event("icecandidate"), {
      candidate: candidate === null ? null : { candidate, sdpMid: "0" },
    });
    this.dispatchEvent(event);
  }
}

interface Request {
  method: string;
  url: string;
  headers: Record<string, string>;
  body: string;
  keepalive: boolean;
}

let requests: Request[];
let answer: () => Response;
let pc: FakeConnection;

const created = () =>
  new Response("ANSWER", {
    status: 201,
    headers: {
      Location: "/whip/cam/s1",
      ETag: '"tag1"',
      Link: '<turn:t.test>; rel="ice-server"; username="u"; credential="c"',
    },
  });
const start = (signal = new AbortController().signal) =>
  HttpSession.start(pc as unknown as RTCPeerConnection, ENDPOINT, signal);
const settled = () => vi.waitFor(() => expect(requests.length).toBeGreaterThan(1));

beforeEach(() => {
  requests = [];
  answer = created;
  pc = new FakeConnection();
  vi.stubGlobal("fetch", async (url: string, init: RequestInit) => {
    requests.push({
      method: init.method ?? "GET",
      url,
      headers: (init.headers ?? {}) as Record<string, string>,
      body: String(init.body ?? ""),
      keepalive: init.keepalive ?? false,
    });
    return init.method === "POST" ? answer() : new Response(null, { status: 204 });
  });
});
afterEach(() => {
  endAllSessions();
  vi.unstubAllGlobals();
});

test("posts the offer and applies the answer, with the ICE servers of its Link headers", async () => {
  await start();
  expect(requests).toMatchObject([
    { method: "POST", url: ENDPOINT, headers: { "Content-Type": "application/sdp" }, body: OFFER },
  ]);
  expect(pc.calls).toEqual(["local, 1 ICE servers", "remote ANSWER"]);
  expect(pc.configuration).toMatchObject({
    bundlePolicy: "max-bundle",
    iceServers: [{ urls: ["turn:t.test"], username: "u", credential: "c" }],
  });
});

test("trickles candidates found together in one PATCH under the session's entity tag", async () => {
  await start();
  pc.find("candidate:1");
  pc.find("candidate:2");
  pc.find(null);
  await settled();
  await new Promise((resolve) => setTimeout(resolve, 10));
  expect(requests).toHaveLength(2);
  expect(requests[1]).toMatchObject({
    method: "PATCH",
    url: "http://server.test/whip/cam/s1",
    headers: { "If-Match": '"tag1"', "Content-Type": "application/trickle-ice-sdpfrag" },
  });
  expect(requests[1]?.body).toMatch(/a=candidate:1\r\na=candidate:2\r\na=end-of-candidates/);
});

test("ends a session once, by a DELETE that outlives the page", async () => {
  const session = await start();
  session.end();
  session.end();
  endAllSessions();
  expect(pc.closed).toBe(true);
  expect(requests.slice(1)).toMatchObject([
    { method: "DELETE", url: "http://server.test/whip/cam/s1", keepalive: true },
  ]);
});

test("leaves no session behind when it was stopped while the server answered", async () => {
  const abort = new AbortController();
  answer = () => {
    abort.abort();
    return created();
  };
  await expect(start(abort.signal)).rejects.toThrow();
  expect(requests[1]).toMatchObject({ method: "DELETE", url: "http://server.test/whip/cam/s1" });
});

test("a refusal tells the server's own words", async () => {
  answer = () =>
    new Response(JSON.stringify({ title: "Conflict", detail: "cam is busy: take another name" }), {
      status: 409,
      headers: { "Content-Type": "application/problem+json" },
    });
  await expect(start()).rejects.toThrow(new Problem(409, "cam is busy: take another name"));
});
