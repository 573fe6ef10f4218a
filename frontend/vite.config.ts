import { defineConfig } from "vite";

declare const process: { env: Record<string, string | undefined> };

const server = process.env["MASKSTREAM_SERVER"] ?? "http://127.0.0.1:8000";
const served = ["/api", "/whip", "/whep", "/streams", "/readyz"];

export default defineConfig({
  // Relative addresses: the page also works below a path prefix of a reverse proxy.
  base: "./",
  build: {
    outDir: "../stream_server/web/page",
    emptyOutDir: true,
    target: ["es2022", "safari15.4"],
    // The server's content security policy allows no data: or inline sources.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: { proxy: Object.fromEntries(served.map((path) => [path, server])) },
});
