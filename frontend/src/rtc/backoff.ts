export const FIRST_DELAY_MS = 500;
export const LONGEST_DELAY_MS = 8000;

/** Wait before attempt `attempt` (0 is the first retry): 0.5 s doubling to 8 s, spread by ±20 %. */
export function backoffMs(attempt: number, random: () => number = Math.random): number {
  const plain = Math.min(FIRST_DELAY_MS * 2 ** attempt, LONGEST_DELAY_MS);
  return Math.round(plain * (0.8 + 0.4 * random()));
}
