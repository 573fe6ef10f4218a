import { expect, test } from "vitest";
import type { FaceOut, Label, StreamStatus } from "../api/types";
import { latencyOf } from "./latency";
import {
  caption,
  countVerdicts,
  facesSentence,
  inOrder,
  seconds,
  stateStory,
  stateWords,
} from "./words";

const face = (label: Label, x = 0, track: number | null = null): FaceOut => ({
  box: [x, 0, 10, 10],
  label,
  confidence: 0.9,
  probabilities: { with_mask: 0.9, without_mask: 0.05, incorrect: 0.05 },
  detection: 0.8,
  landmarks: [],
  track,
});
const status = (part: Partial<StreamStatus>) =>
  ({ state: "live", detail: null, retry_in_seconds: null, ...part }) as StreamStatus;

test("verdicts are counted and told in words", () => {
  const faces = [face("with_mask"), face("without_mask"), face("with_mask")];
  expect(countVerdicts(faces)).toEqual({
    with_mask: 2,
    without_mask: 1,
    incorrect: 0,
    uncertain: 0,
  });
  expect(facesSentence(faces)).toBe("3 faces: 2 mask, 1 no mask");
  expect(facesSentence([])).toBe("No face in the picture");
});

test("faces keep their places: by track, else from the left", () => {
  expect(inOrder([face("uncertain", 50), face("with_mask", 5)]).map(({ box }) => box[0])).toEqual([
    5, 50,
  ]);
  const tracked = [face("uncertain", 5, 9), face("with_mask", 50, 2)];
  expect(inOrder(tracked).map(({ track }) => track)).toEqual([2, 9]);
});

test("a retry counts down", () => {
  expect(stateWords(status({ state: "retrying", retry_in_seconds: 3.6 }))).toBe(
    "Trying again in 4 s",
  );
  expect(stateWords(status({ state: "retrying", retry_in_seconds: 0.1 }))).toBe("Trying again…");
});

test("a stale picture says for how long, a live one has no story", () => {
  expect(stateStory(status({ state: "stale", last_frame_age_seconds: 7.4 }))).toBe(
    "no new picture for 7 s",
  );
  expect(stateStory(status({ state: "stale", detail: "no frames for 7 s" }))).toBe(
    "no frames for 7 s",
  );
  expect(stateStory(status({ state: "live", detail: "x" }))).toBeNull();
});

test("times are short", () => {
  expect([0.2, 59.6, 300, 7300].map(seconds)).toEqual(["0 s", "60 s", "5 min", "2 h"]);
});

test("the own camera's latency counts both ways, another stream's one", () => {
  const parts = { server: 30, rtt: 10, playout: 20, encode: 4, age: null };
  expect(latencyOf({ ...parts, own: true }).value).toBe("≈ 64");
  expect(latencyOf({ ...parts, own: false }).value).toBe("≈ 55");
  expect(latencyOf({ ...parts, server: null, own: true }).value).toBe("–");
});

test("what was measured goes before what is estimated", () => {
  const parts = { server: 30, rtt: 10, playout: 20, encode: null, own: false };
  const latency = latencyOf({ ...parts, age: { ms: 61.4, withinMs: 2.3 } });
  expect(latency.value).toBe("61");
  expect(latency.hint).toContain("to within 3 ms");
});

test("a box says what the server would write on it", () => {
  const face = {
    box: [0, 0, 1, 1] as [number, number, number, number],
    label: "without_mask" as const,
    confidence: 0.999,
    probabilities: { with_mask: 0, without_mask: 1, incorrect: 0 },
    detection: 1,
    landmarks: [],
    track: 7,
  };
  expect(caption(face)).toBe("#7 No mask 99 %");
  expect(caption({ ...face, label: "uncertain", track: null })).toBe("Uncertain");
});
