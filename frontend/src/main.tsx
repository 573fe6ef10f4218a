import { render } from "preact";
import { App } from "./app";
import { endAllSessions } from "./rtc/session";
import { followCamera } from "./state/camera";
import { followSelection } from "./state/selection";
import { followServer } from "./state/server";
import { followGenerations } from "./state/viewers";
import "./style.css";

const root = document.getElementById("page");
if (root === null) throw new Error("index.html lacks the element #page");

followServer();
followGenerations();
followSelection();
followCamera();
render(<App />, root);

window.addEventListener("pagehide", endAllSessions);
// Back from the browser's page cache all sessions are ended: begin anew.
window.addEventListener("pageshow", ({ persisted }) => {
  if (persisted) location.reload();
});
