import { expect, test } from "vitest";
import { ServerClock } from "./clock";

test("the quickest answer tells how the clocks differ", () => {
  const clock = new ServerClock();
  expect(clock.offset).toBeNull();
  clock.answered(1000, 6100, 1200);
  clock.answered(2000, 7002, 2004);
  clock.answered(3000, 8300, 3400);
  expect(clock.offset).toEqual({ ms: 5000, withinMs: 2 });
});

test("clocks drift: an old answer is forgotten", () => {
  const clock = new ServerClock();
  clock.answered(0, 5000, 0);
  for (let at = 1; at <= 20; at += 1) clock.answered(at * 1000, at * 1000 + 7010, at * 1000 + 20);
  expect(clock.offset).toEqual({ ms: 7000, withinMs: 10 });
});
