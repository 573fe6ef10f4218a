import { expect, test } from "vitest";
import { Problem } from "../api/client";
import type { StreamStatus } from "../api/types";
import { stageState } from "./stage-state";

const status = (part: Partial<StreamStatus> = {}) =>
  ({ name: "cam", state: "live", detail: null, retry_in_seconds: null, ...part }) as StreamStatus;
const live = {
  name: "cam",
  server: { phase: "up" },
  status: status(),
  own: null,
  viewer: { phase: "live" },
  fallsBack: false,
  hasPicture: true,
  stillSeconds: 0,
} satisfies Parameters<typeof stageState>[0];

test("all well is live", () => {
  expect(stageState(live).state).toBe("live");
});

test("a picture that stands still never looks live", () => {
  expect(stageState({ ...live, stillSeconds: 3 })).toMatchObject({
    state: "stale",
    text: "no new picture here for 3 s",
  });
  const stale = status({ state: "stale", detail: "no frames for 6 s" });
  expect(stageState({ ...live, status: stale })).toMatchObject({
    state: "stale",
    text: "no frames for 6 s",
  });
});

test("a lost server outweighs what was last heard of the stream", () => {
  expect(stageState({ ...live, server: { phase: "lost", since: 0 } }).state).toBe("lost");
});

test("a stream that is gone says so, unless it is our camera on its way", () => {
  expect(stageState({ ...live, status: undefined, viewer: null }).state).toBe("missing");
  const own = { phase: "connecting", attempt: 0 } as const;
  expect(stageState({ ...live, status: undefined, viewer: null, own }).state).toBe("connecting");
  const waiting = { phase: "waiting", attempt: 1, reason: "lost" } as const;
  expect(stageState({ ...live, own: waiting })).toMatchObject({
    state: "reconnecting",
    text: "lost",
  });
});

test("a camera that is tried again shows the wait and the reason", () => {
  const retrying = status({ state: "retrying", retry_in_seconds: 4, detail: "connection refused" });
  expect(stageState({ ...live, status: retrying })).toEqual({
    state: "off",
    title: "Trying again in 4 s",
    text: "connection refused",
  });
});

test("without WebRTC there are plain pictures, and the reason", () => {
  const viewer = { phase: "waiting", attempt: 3, reason: "UDP is blocked." } as const;
  const shown = stageState({ ...live, viewer, fallsBack: true });
  expect(shown.state).toBe("pictures");
  expect(shown.text).toContain("UDP is blocked.");
});

test("a failed camera link is told by its notice, not here", () => {
  const own = { phase: "failed", problem: new Problem(409, "busy") } as const;
  expect(stageState({ ...live, own }).state).toBe("live");
});
