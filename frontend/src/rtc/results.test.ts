import { expect, test } from "vitest";
import type { FrameResult } from "../api/types";
import { bufferFor, Results } from "./results";

const frame = (rtp_time: number | null, number = 0): FrameResult => ({
  stream: "gate",
  frame: number,
  time: 0,
  media_time: null,
  width: 640,
  height: 480,
  latency_ms: 20,
  faces: [],
  rtp_time,
});

test("a frame gets its own faces, whatever the order in which they came", () => {
  const results = new Results();
  for (const number of [3, 1, 2]) results.add(frame(number * 3000, number));
  expect(results.at(6000)).toMatchObject({ result: { frame: 2 }, exact: true });
});

test("a frame without faces of its own gets those of the one before, for a quarter of a second", () => {
  const results = new Results();
  results.add(frame(3000, 1));
  results.add(frame(9000, 3));
  expect(results.at(6000)).toMatchObject({ result: { frame: 1 }, exact: false });
  expect(results.at(9000 + 250 * 90)).toMatchObject({ result: { frame: 3 }, exact: false });
  expect(results.at(9000 + 251 * 90)).toBeNull();
  expect(results.at(2000)).toBeNull();
});

test("time stamps go on where they wrap round", () => {
  const results = new Results();
  results.add(frame(2 ** 32 - 1000, 1));
  expect(results.at(2000)).toMatchObject({ result: { frame: 1 }, exact: false });
  expect(results.at(2 ** 32 - 4000)).toBeNull();
});

test("what is kept is bounded, and a result without a time stamp is no use", () => {
  const results = new Results();
  results.add(frame(null));
  for (let number = 0; number < 1000; number += 1) results.add(frame(number * 10, number));
  expect(results.at(0)).toBeNull();
  expect(results.at(9990)).toMatchObject({ exact: true });
});

test("the buffer covers late verdicts at once and shrinks slowly", () => {
  expect(bufferFor([], 150)).toBe(150);
  expect(bufferFor([10, 12, 200], 150)).toBe(240);
  expect(bufferFor([10, 12], 150)).toBe(140);
  expect(bufferFor([10_000], 150)).toBe(500);
});
