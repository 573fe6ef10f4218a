import { signal } from "@preact/signals";

const KEY = "maskstream.theme";
type Theme = "light" | "dark";

const system = matchMedia("(prefers-color-scheme: dark)");
const kept = signal<string | null>(localStorage.getItem(KEY));

function apply(): void {
  if (kept.value === null) delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = kept.value;
}

/** Light and dark in turn; the choice that the system makes anyway is not kept. */
export function switchTheme(): void {
  const bySystem: Theme = system.matches ? "dark" : "light";
  const now = kept.value ?? bySystem;
  const next: Theme = now === "dark" ? "light" : "dark";
  kept.value = next === bySystem ? null : next;
  if (kept.value === null) localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, kept.value);
  apply();
}

apply();
