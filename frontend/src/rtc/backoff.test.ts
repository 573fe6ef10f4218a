import { expect, test } from "vitest";
import { backoffMs } from "./backoff";

test("doubles from half a second up to eight", () => {
  const middle = () => 0.5;
  expect([0, 1, 2, 3, 4, 5, 60].map((attempt) => backoffMs(attempt, middle))).toEqual([
    500, 1000, 2000, 4000, 8000, 8000, 8000,
  ]);
});

test("spreads by a fifth to either side", () => {
  expect(backoffMs(1, () => 0)).toBe(800);
  expect(backoffMs(1, () => 1)).toBe(1200);
});
