import { signal } from "@preact/signals";

export type NoticeCode =
  | "insecure-origin"
  | "permission-denied"
  | "no-camera"
  | "camera-busy"
  | "camera-lost"
  | "camera-error"
  | "no-webrtc"
  | "stream-busy"
  | "stream-removed"
  | "codec"
  | "refused";

/** Something the user should know and can mend. */
export interface Notice {
  code: NoticeCode;
  title: string;
  text: string;
  action?: { label: string; run: () => void };
}

export const notice = signal<Notice | null>(null);

export function clearNotice(...codes: NoticeCode[]): void {
  const shown = notice.value;
  if (shown !== null && (codes.length === 0 || codes.includes(shown.code))) notice.value = null;
}
