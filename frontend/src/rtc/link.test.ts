import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Problem } from "../api/client";
import { Link, type LinkOptions } from "./link";
import type { EndReason, Peer } from "./peer";

class FakePeer implements Peer {
  readonly pc = {} as RTCPeerConnection;
  end: (reason: EndReason) => void = () => {};
  closed = false;
  readonly ended = new Promise<EndReason>((resolve) => {
    this.end = resolve;
  });
  close() {
    this.closed = true;
  }
}

let opened: FakePeer[];
const makeLink = (options: Partial<LinkOptions> = {}) =>
  new Link({
    open: async () => {
      const peer = new FakePeer();
      opened.push(peer);
      return peer;
    },
    retries: (problem) => problem.retryable,
    delay: (attempt) => 100 * 2 ** attempt,
    ...options,
  });
const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);

beforeEach(() => {
  opened = [];
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

test("opens again after a loss, and waits longer each time", async () => {
  const link = makeLink();
  link.start();
  await pass(0);
  expect(link.state.value.phase).toBe("live");
  opened[0]?.end("lost");
  await pass(0);
  expect(opened[0]?.closed).toBe(true);
  expect(link.state.value).toMatchObject({ phase: "waiting", attempt: 0 });
  await pass(100);
  expect(opened).toHaveLength(2);
  opened[1]?.end("lost");
  await pass(100);
  expect(opened).toHaveLength(2);
  await pass(100);
  expect(opened).toHaveLength(3);
});

test("a peer that lived long starts the wait anew", async () => {
  const link = makeLink();
  link.start();
  await pass(0);
  opened[0]?.end("lost");
  await pass(100);
  await pass(6000);
  opened[1]?.end("lost");
  await pass(0);
  expect(link.state.value).toMatchObject({ phase: "waiting", attempt: 0 });
});

test("a refusal that cannot pass ends it and is kept to be shown", async () => {
  const problem = new Problem(409, "busy");
  const link = makeLink({ open: () => Promise.reject(problem) });
  link.start();
  await pass(0);
  expect(link.state.value).toEqual({ phase: "failed", problem });
  link.start();
  expect(link.state.value.phase).toBe("connecting");
});

test("the other side's reason to close may end it", async () => {
  const problem = new Problem(410, "removed");
  const link = makeLink({
    onClosed: async (reason) => (reason === "closed-by-server" ? problem : null),
  });
  link.start();
  await pass(0);
  opened[0]?.end("closed-by-server");
  await pass(0);
  expect(link.state.value).toEqual({ phase: "failed", problem });
});

test("a nudge ends the wait at once", async () => {
  const link = makeLink({ delay: () => 60_000 });
  link.start();
  await pass(0);
  opened[0]?.end("lost");
  await pass(10);
  link.nudge();
  await pass(0);
  expect(opened).toHaveLength(2);
});

test("stop closes the peer, even one that was still being opened", async () => {
  let finish: (peer: Peer) => void = () => {};
  const link = makeLink({
    open: () =>
      new Promise((resolve) => {
        finish = resolve;
      }),
  });
  link.start();
  link.stop();
  const late = new FakePeer();
  finish(late);
  await pass(0);
  expect(late.closed).toBe(true);
  expect(link.state.value.phase).toBe("idle");
});

test("restart replaces a peer that seems alive", async () => {
  const link = makeLink();
  link.start();
  await pass(0);
  link.restart();
  await pass(0);
  expect(opened.map(({ closed }) => closed)).toEqual([true, false]);
  expect(link.state.value.phase).toBe("live");
});
