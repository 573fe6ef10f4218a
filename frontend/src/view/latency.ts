interface Parts {
  /** The stream is this browser's own camera: its way to the server counts too. */
  own: boolean;
  server: number | null;
  rtt: number | null;
  playout: number | null;
  encode: number | null;
}

interface LatencyFigure {
  value: string;
  note: string;
  hint: string;
}

/**
 * An estimate of the picture's age, summed from parts that one clock measured each, as the
 * server's clock and the browser's may differ by more than the whole. For the own camera from
 * capture to the screen here, for others from the arrival at the server.
 */
export function latencyOf({ own, server, rtt, playout, encode }: Parts): LatencyFigure {
  if (server === null) {
    return { value: "–", note: "", hint: "Known once the stream is live." };
  }
  const network = rtt === null ? 0 : own ? rtt : rtt / 2;
  const total = server + network + (playout ?? 0) + (own ? (encode ?? 0) : 0);
  const parts = [
    own && encode !== null ? `encoding here ${encode.toFixed(0)} ms` : null,
    rtt === null ? null : `network ${network.toFixed(0)} ms (round trip ${rtt.toFixed(0)} ms)`,
    `server, capture to result ${server.toFixed(0)} ms`,
    playout === null ? null : `buffer and decoding here ${playout.toFixed(0)} ms`,
  ].filter((part) => part !== null);
  const rttNote = rtt === null ? "" : ` · rtt ${rtt.toFixed(0)}`;
  return {
    value: `≈ ${total.toFixed(0)}`,
    note: `server ${server.toFixed(0)}${rttNote}`,
    hint: [
      own
        ? "Estimate from your camera to this screen, without the camera's and the screen's own delay:"
        : "Estimate from the picture's arrival at the server to this screen:",
      ...parts,
    ].join("\n"),
  };
}
