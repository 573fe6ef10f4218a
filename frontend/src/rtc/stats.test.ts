import { expect, test } from "vitest";
import { median, StatsReader, StillWatch } from "./stats";

const inbound = (decoded: number, delay: number) =>
  [
    "in",
    {
      type: "inbound-rtp",
      kind: "video",
      framesDecoded: decoded,
      framesDropped: 2,
      frameWidth: 640,
      frameHeight: 480,
      jitterBufferDelay: delay,
      jitterBufferEmittedCount: decoded,
      totalDecodeTime: decoded * 0.002,
    },
  ] as [string, unknown];
const pair = [
  "pair",
  { type: "candidate-pair", state: "succeeded", nominated: true, currentRoundTripTime: 0.012 },
] as [string, unknown];

test("rates and means are of the time since the last look", () => {
  const reader = new StatsReader();
  expect(reader.read([inbound(100, 9), pair], 1000).fps).toBeNull();
  const sample = reader.read([inbound(130, 9.6), pair], 2000);
  expect(sample).toMatchObject({ fps: 30, dropped: 2, width: 640, height: 480 });
  expect(sample.playoutMs).toBeCloseTo(20 + 2);
  expect(sample.rttMs).toBeCloseTo(12);
});

test("a sender tells its encoding time and why it sends less", () => {
  const reader = new StatsReader();
  const out = (frames: number, time: number) =>
    [
      "out",
      {
        type: "outbound-rtp",
        kind: "video",
        framesEncoded: frames,
        totalEncodeTime: time,
        qualityLimitationReason: "cpu",
      },
    ] as [string, unknown];
  reader.read([out(10, 0.1)], 0);
  const sample = reader.read([out(40, 0.25)], 1000);
  expect(sample.encodeMs).toBeCloseTo(5);
  expect(sample.limitation).toBe("cpu");
});

test("a picture stands still from its last new frame on", () => {
  const watch = new StillWatch();
  expect(watch.look(5, 0)).toBe(0);
  expect(watch.look(5, 3000)).toBe(3);
  expect(watch.look(6, 4000)).toBe(0);
});

test("the median needs no order", () => {
  expect(median([])).toBeNull();
  expect(median([9, 1, 5])).toBe(5);
  expect(median([4, 1, 3, 2])).toBe(2.5);
});
