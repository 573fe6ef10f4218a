import { expect, test } from "vitest";
import { nameFault, tidyName, urlFault, withCredentials, withoutSecrets } from "./validate";

const SCHEMES = ["rtsp", "rtsps", "demo"];

test.each(["a", "front-door_2", "0", "a".repeat(63)])("name %s is good", (name) => {
  expect(nameFault(name)).toBeNull();
});
test.each(["", "-a", "_a", "A", "a b", "ä", "a".repeat(64), "a/b"])(
  "name %j is refused",
  (name) => {
    expect(nameFault(name)).not.toBeNull();
  },
);
test("typed blanks and capitals are mended", () => {
  expect(tidyName("Front  Door")).toBe("front-door");
});

test.each([
  "rtsp://192.168.1.20:554/stream1",
  "RTSP://cam/",
  "rtsps://user:p%40ss@[fe80::1]:322/x?y=1",
  "rtsp://user:p@ss:word@cam.lan/live",
  "demo:",
])("address %s is good", (url) => {
  expect(urlFault(url, SCHEMES)).toBeNull();
});
test.each([
  ["", "Give the camera's address"],
  ["192.168.1.20/stream", "must begin with its protocol"],
  ["http://cam/", "“http:” is not taken here. Use rtsp:, rtsps:, demo:."],
  ["rtsp:///live", "names no camera"],
  ["rtsp:cam", "names no camera"],
  ["rtsp://user:secret@/live", "names no camera"],
  ["rtsp://cam:99999/", "“99999” is not a port"],
  ["rtsp://cam:x/", "“x” is not a port"],
  ["rtsp://cam/a b", "must not contain blanks"],
])("address %j is refused", (url, why) => {
  expect(urlFault(url, SCHEMES)).toContain(why);
});

test("user and password are escaped, and replace those in the address", () => {
  expect(withCredentials("rtsp://cam/x", "m:e", "p@s/s")).toBe("rtsp://m%3Ae:p%40s%2Fs@cam/x");
  expect(withCredentials("rtsp://old:old@cam/x", "me", "new")).toBe("rtsp://me:new@cam/x");
  expect(withCredentials("rtsp://old:old@cam/x", "", "")).toBe("rtsp://old:old@cam/x");
});

test("a message never repeats a password", () => {
  const url = "rtsp://me:hunter2@cam/x";
  expect(withoutSecrets(`cannot read ${url}`, url, "")).toBe("cannot read rtsp://me:•••@cam/x");
  expect(withoutSecrets("no: p@ss, p%40ss", "rtsp://cam/", "p@ss")).toBe("no: •••, •••");
});
