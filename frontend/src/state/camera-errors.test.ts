import { expect, test } from "vitest";
import { cameraNotice, insecureNotice } from "./camera-errors";

const fault = (name: string, message = "") => new DOMException(message, name);

test.each([
  ["NotAllowedError", "permission-denied"],
  ["NotFoundError", "no-camera"],
  ["NotReadableError", "camera-busy"],
  ["AbortError", "camera-busy"],
  ["TypeError", "camera-error"],
])("%s is told as %s", (name, code) => {
  expect(cameraNotice(fault(name), { phone: false }).code).toBe(code);
});

test("a block by the system is mended elsewhere than one by the page's permission", () => {
  const system = cameraNotice(fault("NotAllowedError", "Permission denied by system"), {
    phone: true,
  });
  const page = cameraNotice(fault("NotAllowedError", "Permission denied"), { phone: true });
  expect(system.text).toContain("system's privacy settings");
  expect(page.text).toContain("beside the address");
});

test("an insecure origin names the address that works", () => {
  expect(insecureNotice("http://192.168.1.7:8000").text).toContain("http://localhost:8000");
});
