import type { Notice } from "./notice";

interface Surroundings {
  secure: boolean;
  origin: string;
  phone: boolean;
}

export function surroundings(): Surroundings {
  return {
    secure: window.isSecureContext && navigator.mediaDevices !== undefined,
    origin: location.origin,
    phone: matchMedia("(pointer: coarse)").matches,
  };
}

export function insecureNotice(origin: string): Notice {
  const local = origin.replace(/^(https?:\/\/)(\[[^\]]*\]|[^:/]+)/, "http://localhost");
  return {
    code: "insecure-origin",
    title: "Your browser hides the camera on this address",
    text:
      `${origin} is not encrypted, and browsers lend cameras only to https:// pages or to ` +
      `localhost. Open this page by https://, or as ${local} on the machine that runs maskstream. ` +
      "Watching streams and adding IP cameras works here all the same.",
  };
}

/** What an error of `getUserMedia` means to a person, and how to mend it. */
export function cameraNotice(error: unknown, { phone }: Pick<Surroundings, "phone">): Notice {
  const name = error instanceof Error || error instanceof DOMException ? error.name : "";
  const message = error instanceof Error ? error.message : String(error);
  switch (name) {
    case "NotAllowedError":
    case "SecurityError":
      if (/system/i.test(message)) {
        return {
          code: "permission-denied",
          title: "The system keeps the camera from the browser",
          text: "Allow the camera for this browser in the system's privacy settings, then press Start camera again.",
        };
      }
      return {
        code: "permission-denied",
        title: "The camera is blocked for this page",
        text: phone
          ? "Tap the icon beside the address, open the permissions, allow the camera, then press Start camera again."
          : "Click the icon left of the address, set Camera to Allow, then press Start camera again.",
      };
    case "NotFoundError":
    case "DevicesNotFoundError":
      return {
        code: "no-camera",
        title: "No camera found on this device",
        text: "Plug a camera in (this page notices it), or add an IP camera by its RTSP address below.",
      };
    case "NotReadableError":
    case "TrackStartError":
    case "AbortError":
      return {
        code: "camera-busy",
        title: "The camera does not start",
        text: "Another program probably uses it. Close video calls and other tabs that show it, then press Start camera again.",
      };
    default:
      return {
        code: "camera-error",
        title: "The camera does not start",
        text: `The browser says: ${message || name || "unknown error"}`,
      };
  }
}
